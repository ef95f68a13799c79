"""Parameter groups: factors of learning rate and weight decay, chosen by regular expressions on the parameters' names."""

import math
from collections.abc import Mapping, Sequence

from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import unknown_name
from jaxseg.utils.trees import label_by_rules

Groups = Sequence[tuple[str, Mapping[str, float]]]


def factors(params: Mapping[str, Array], groups: Groups) -> dict[str, tuple[float, float]]:
    """The factors of every parameter, {name: (learning-rate factor, decay factor)}.

    Args:
      params: arrays or shapes by name.
      groups: ((regular expression, {"lr": factor, "decay": factor}), ...): a parameter belongs to the first group whose
        expression is found in its name; missing factors, and those of parameters without a group, are 1.
    Raises:
      ConfigError: a group has another form, has no parameter, or has an unknown or negative factor.
    """
    for group in groups:
        if not isinstance(group, (tuple, list)) or len(group) != 2 or not isinstance(group[1], Mapping):
            raise ConfigError(f"optimiser group {group!r}: must be (regular expression, {{'lr': factor, 'decay': factor}})")
        for key, value in group[1].items():
            if key not in ("lr", "decay"):
                raise unknown_name(f"factor of optimiser group {group[0]!r}", key, ("lr", "decay"))
            number(f"factor {key} of optimiser group {group[0]!r}", value)
    labels = label_by_rules(sorted(params), [*((g[0], str(i)) for i, g in enumerate(groups)), (".*", "")])
    chosen = {"": {"lr": 1.0, "decay": 1.0}}
    chosen |= {str(i): {**chosen[""], **given} for i, (_, given) in enumerate(groups)}
    return {name: (chosen[label]["lr"], chosen[label]["decay"]) for name, label in labels.items()}


def number(what: str, value, below: float = math.inf) -> None:
    """Raise a ConfigError unless `value`, called `what` in the message, is a number in [0, below)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < below:
        rule = f"in [0, {below:g})" if below < math.inf else "finite and not negative"
        raise ConfigError(f"{what}={value!r}: must be a number, {rule}")
