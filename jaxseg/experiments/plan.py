"""The runs of a comparison: every network (or variant of the config) with every seed and fold, each in a folder of its own."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.config import flatten, resolve
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup


class Planned(NamedTuple):
    """One run.

    Attributes:
      model: what is compared: the network, or the network and the variant's label.
      seed: random seed.
      fold: which part is tested; None without folds.
      folder: of the run, below that of the experiment.
      config: of the run, resolved and locked.
    """

    model: str
    seed: int
    fold: int | None
    folder: Path
    config: Any

    @property
    def name(self) -> str:
        """ "unet3d_s_seed_24_fold_1", as the BraTS 3-D project names its weights."""
        return f"{self.model}_seed_{self.seed}" + (f"_fold_{self.fold}" if self.fold is not None else "")


def runs(config, folder: Path) -> list[Planned]:
    """Every run of config.compare, in the order in which they are started: all models of a seed and fold, then the next.

    Raises:
      ConfigError: a variant that names no key, a name twice, or folds that do not exist.
    """
    c = config.compare
    models = tuple(c.models) or (config.model.name,)
    seeds = tuple(c.seeds) or (config.seed,)
    variants = [(str(label), tuple(changes)) for label, changes in c.vary] or [("", ())]
    folds = tuple(c.fold) or tuple(range(c.folds)) if c.folds else (None,)
    for what, values in (("models", models), ("seeds", seeds), ("fold", folds), ("vary", [label for label, _ in variants])):
        if len(set(values)) != len(values):
            raise ConfigError(f"config.compare.{what}: names one of them twice; each combination is trained once")
    if c.fold and not c.folds:
        raise ConfigError(
            "config.compare.fold says which folds are run; give config.compare.folds, into how many the patients are split"
        )
    if c.folds and not all(0 <= fold < c.folds for fold in folds):
        raise ConfigError(f"config.compare.fold={tuple(c.fold)}: must lie in 0..{c.folds - 1} (compare.folds)")
    if config.eval.split != "test" or config.data.split == "patient" and not config.data.fractions[2]:
        raise ConfigError(
            "--mode=compare scores every run on its test split: set config.eval.split to test, and give it a share of "
            f"config.data.fractions, which are {tuple(config.data.fractions)}"
        )
    found = []
    for seed in seeds:
        for fold in folds:
            for model in models:
                for label, changes in variants:
                    tree = _changed(config, model, seed, fold, c.folds, changes)
                    name = "+".join(filter(None, (model if len(models) > 1 or not label else "", label)))
                    place = folder / _safe(name) / (f"seed_{seed}" + (f"_fold_{fold}" if fold is not None else ""))
                    found.append(Planned(name, seed, fold, place, tree))
    places = [run.folder for run in found]
    if len(set(places)) != len(places):
        raise ConfigError("config.compare: two of its models or variants would share a folder; give their labels other letters")
    return found


def distinct(planned: list[Planned]) -> Iterator[Planned]:
    """One run of each model: what can be refused before anything is trained is the same for all seeds and folds."""
    seen = set()
    for run in planned:
        if run.model not in seen:
            seen.add(run.model)
            yield run


def _changed(config, model: str, seed: int, fold: int | None, folds: int, changes: tuple):
    tree = config.copy_and_resolve_references()
    known = flatten(tree.to_dict())
    with tree.unlocked():
        tree.model.name, tree.seed = model, int(seed)
        if fold is not None:
            tree.data.split, tree.data.folds, tree.data.fold = "fold", int(folds), int(fold)
        for entry in changes:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise ConfigError(f"config.compare.vary: {entry!r} must be ('key', value), a key of the config and its value")
            key, value = entry
            lookup("key in config.compare.vary", key, known)
            group, _, leaf = key.rpartition(".")
            place = tree
            for part in group.split(".") if group else ():
                place = place[part]
            place[leaf] = value
        tree.compare = type(tree)({key: type(value)() for key, value in config.compare.items()})  # a run is no comparison
    return resolve(tree)  # the rules hold for what was changed too


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+=-]", "_", name)
