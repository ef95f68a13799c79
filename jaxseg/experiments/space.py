"""The space of a search: keys of a config, and the values that each may take.

    ('optim.lr', 'log', 1e-5, 1e-2)              a number between two bounds, drawn on a logarithmic scale
    ('model.options.dropout', 'float', 0, 0.5)   a number between two bounds
    ('train.batch_size', 'int', 2, 16)           a whole number, bounds included
    ('model.name', 'choice', ('unet', 'unetr'))  one of these values, of any type

Without a space, a config with class weights of the cross-entropy gives one: the weight of the background is 1, because only
ratios matter (`losses.pointwise.cross_entropy` divides by the sum of weights); each other weight lies between search.low and
search.high.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.config import replaced, resolve, value_of
from jaxseg.types import ConfigError

WEIGHTS = "loss.options.cross_entropy.class_weights"
GROUPS = ("search", "compare")  # a trial is neither a search nor a comparison


class Dimension(NamedTuple):
    """One key of a search.

    Attributes:
      key: of the config; it may lead into options and tuples ("loss.options.focal.gamma", "loss.terms.0.1").
      kind: log, float, int or choice.
      values: (low, high), or the values to choose from.
    """

    key: str
    kind: str
    values: tuple

    @property
    def labels(self) -> dict[str, Any]:
        """The values of a choice by their names in the study, which supports only texts and numbers."""
        return {v if isinstance(v, str) else repr(v): v for v in self.values}

    def drawn(self, trial) -> Any:
        """Return the value that an optuna trial suggests."""
        if self.kind == "choice":
            return self.labels[trial.suggest_categorical(self.key, list(self.labels))]
        if self.kind == "int":
            return trial.suggest_int(self.key, *self.values)
        return trial.suggest_float(self.key, *self.values, log=self.kind == "log")

    def start(self, own: Any) -> dict[str, Any]:
        """Return the config's own value as a trial's parameter, clipped to the bounds; {} if it is not in this space."""
        if self.kind == "choice":
            name = own if isinstance(own, str) else repr(own)
            return {self.key: name} if name in self.labels else {}
        if isinstance(own, bool) or not isinstance(own, (int, float)):
            return {}
        low, high = self.values
        inside = min(max(own, low), high)
        return {self.key: round(inside) if self.kind == "int" else float(inside)}


def space_of(config) -> tuple[Dimension, ...]:
    """The dimensions of config.search.

    Raises:
      ConfigError: no space is given, and the config has no class weights.
    """
    if not config.search.space:
        s = config.search
        return tuple(Dimension(f"{WEIGHTS}.{k}", "log", (s.low, s.high)) for k in range(1, len(weights_of(config))))
    return tuple(
        Dimension(key, kind, tuple(rest[0]) if kind == "choice" else tuple(rest)) for key, kind, *rest in config.search.space
    )


def starts_of(config, space: Sequence[Dimension], weights: Sequence[Sequence[float]] = ()) -> list[dict[str, Any]]:
    """Return the parameters to try first: the config's own values; for class weights also equal ones and `weights`."""
    if config.search.space:
        return [{name: value for d in space for name, value in d.start(value_of(config, d.key)).items()}]
    own = weights_of(config)
    ratios = [[w / given[0] for w in given[1:]] for given in (own, [1.0] * len(own), *weights)]
    return [{name: value for d, w in zip(space, given) for name, value in d.start(w).items()} for given in ratios]


def changed(config, values: Mapping[str, Any]):
    """Return the config of a trial.

    Raises:
      ConfigError: the values break a rule.
    """
    base = {} if config.search.space else {f"{WEIGHTS}.0": 1.0}
    return resolve(replaced(config, {**base, **values}, emptied=GROUPS))


def weights_of(config) -> tuple[float, ...]:
    """Return the class weights of a config, background first.

    Raises:
      ConfigError: the config has no class weights.
    """
    options = config.loss.options.to_dict()
    named = "cross_entropy" in [name for name, _ in config.loss.terms] and "cross_entropy" in options
    if not named or "class_weights" not in options["cross_entropy"]:
        raise ConfigError(
            "--mode=search without config.search.space optimises the class weights of the cross-entropy, but this config has "
            "none; give the keys to search, --config.search.space=\"(('optim.lr','log',1e-5,1e-2),)\", or add the term "
            "'cross_entropy' to config.loss.terms and its class_weights to config.loss.options (as in configs/brats2d.py:wcce)"
        )
    weights = tuple(options["cross_entropy"]["class_weights"])
    if len(weights) < 2 or min(weights) <= 0:
        raise ConfigError(
            f"config.loss.options.cross_entropy.class_weights={weights}: must be two or more numbers above 0, "
            "background first, as the starting point of the search"
        )
    return weights
