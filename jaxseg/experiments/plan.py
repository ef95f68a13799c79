"""The runs of a comparison: every network (or variant of the config) with every seed and fold, each in its own folder."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.checkpoint.claims import EVALUATION, STATE
from jaxseg.config import replaced, resolve
from jaxseg.experiments.space import GROUPS
from jaxseg.types import ConfigError
from jaxseg.utils import guard

FAILED = "failed.json"  # why a run failed


class Planned(NamedTuple):
    """One planned run.

    Attributes:
      model: name of the compared model: the network, or the network and the variant's label.
      seed: random seed.
      fold: the fold that is tested; None without folds.
      folder: the run folder, below the folder of the experiment.
      config: the run's config, resolved and locked.
    """

    model: str
    seed: int
    fold: int | None
    folder: Path
    config: Any

    @property
    def name(self) -> str:
        """The run's name, such as "unet3d_s_seed_24_fold_1", as in the BraTS 3-D project."""
        return f"{self.model}_seed_{self.seed}" + (f"_fold_{self.fold}" if self.fold is not None else "")

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end and evaluated."""
        place = self.folder / EVALUATION
        return (self.folder / STATE).is_file() and place.is_file() and isinstance(guard.read_json(place), dict)


def runs(config, folder: Path) -> list[Planned]:
    """Return every run of config.compare in the order of training: all models of one seed and fold, then those of the next.

    Raises:
      ConfigError: a variant sets a key that does not exist, a name is given twice, or a fold does not exist.
    """
    c = config.compare
    models = tuple(c.models) or (config.model.name,)
    seeds = tuple(c.seeds) or (config.seed,)
    variants = [(str(label), tuple(changes)) for label, changes in c.vary] or [("", ())]
    folds = tuple(c.fold) or tuple(range(c.folds)) if c.folds else (None,)
    for what, values in (("models", models), ("seeds", seeds), ("fold", folds), ("vary", [label for label, _ in variants])):
        if len(set(values)) != len(values):
            raise ConfigError(f"config.compare.{what}: holds the same value twice; remove one of them")
    if c.fold and not c.folds:
        raise ConfigError(
            "config.compare.fold chooses folds to run, but the number of folds is not set; set config.compare.folds too"
        )
    if c.folds and not all(0 <= fold < c.folds for fold in folds):
        raise ConfigError(f"config.compare.fold={tuple(c.fold)}: must lie in 0..{c.folds - 1} (compare.folds)")
    if config.eval.split != "test" or config.data.split == "patient" and not config.data.fractions[2]:
        raise ConfigError(
            "--mode=compare evaluates every run on its test split: set config.eval.split to test, and give the test split a "
            f"share in config.data.fractions, now {tuple(config.data.fractions)}"
        )
    found = []
    for seed in seeds:
        for fold in folds:
            for model in models:
                for label, changes in variants:
                    tree = _changed(config, model, seed, fold, c.folds, changes)
                    name = "+".join(filter(None, (model if len(models) > 1 or not label else "", label)))
                    place = folder / plain(name) / (f"seed_{seed}" + (f"_fold_{fold}" if fold is not None else ""))
                    found.append(Planned(name, seed, fold, place, tree))
    places = [run.folder for run in found]
    if len(set(places)) != len(places):
        raise ConfigError(
            "config.compare: two of its models or variants would use the same folder; give them labels with other letters"
        )
    return found


def distinct(planned: list[Planned]) -> Iterator[Planned]:
    """Yield one run per model: errors that can be found before training are the same for all seeds and folds."""
    seen = set()
    for run in planned:
        if run.model not in seen:
            seen.add(run.model)
            yield run


def _changed(config, model: str, seed: int, fold: int | None, folds: int, changes: tuple):
    for entry in changes:
        if not isinstance(entry, tuple) or len(entry) != 2:
            raise ConfigError(f"config.compare.vary: {entry!r} must be ('key', value), a key of the config and its value")
    values: dict[str, Any] = {"model.name": model, "seed": int(seed)}
    if fold is not None:
        values |= {"data.split": "fold", "data.folds": int(folds), "data.fold": int(fold)}
    return resolve(replaced(config, values | dict(changes), emptied=GROUPS))  # the rules hold for what was changed too


def plain(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9_.+=-]", "_", name)
