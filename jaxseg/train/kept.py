"""Where the programs of a run are kept (`programs.kept`): what of its config they depend on."""

from typing import Any

from jaxseg.config import as_dict, flatten
from jaxseg.programs.kept import Kept

# groups and keys that the step does not depend on: seed and learning rate are arguments of it (`programs.program`)
APART = ("eval", "infer", "report", "explain", "compare", "search", "plan", "schedule")
APART_KEYS = ("seed", "optim.lr", "train.epochs", "name", "variant")


def of_step(config) -> Kept:
    """The kept training step of a resolved config."""
    return Kept(_about(config))


def of_scores(config, learnt: Any) -> Kept:
    """The kept program that scores stored slices; `learnt` as in `programs.kept.Kept`."""
    return Kept(_about(config) | {f"eval.{key}": value for key, value in config.eval.items()} | {"what": "scores"}, learnt)


def _about(config) -> dict[str, Any]:
    tree = flatten(as_dict(config))
    return {k: v for k, v in tree.items() if k.partition(".")[0] not in APART and k not in APART_KEYS}
