"""Arguments of a config file: `configs/ich_segnext.py:b,all,quick`."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup


class Chosen(NamedTuple):
    """The given size (None if there is none) and the set of flags."""

    size: str | None
    flags: frozenset[str]


def parse(arguments: str, *, sizes: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> Chosen:
    """Split "b,all,quick" into a size and flags; an unknown word is an error that lists the known ones."""
    words = [w.strip() for w in (arguments or "").split(",") if w.strip()]
    known = dict.fromkeys((*sizes, *flags))
    for word in words:
        lookup("argument of this config", word, known)
    return Chosen(one_of(words, sizes), frozenset(words) - set(sizes))


def one_of(words: Iterable[str], choices: Iterable[str]) -> str | None:
    """The word that is one of `choices`, or None; two such words are an error."""
    named = sorted(set(words) & set(choices))
    if len(named) > 1:
        raise ConfigError(f"got the arguments {' and '.join(named)} of this config, which exclude each other; give only one")
    return named[0] if named else None


def network_and_flags(arguments: str, *flags: str) -> tuple[str | None, frozenset[str]]:
    """Split "unet3d_s,quick" into a network (any registry name; None if there is none) and flags."""
    words = [w.strip() for w in (arguments or "").split(",") if w.strip()]
    named = [w for w in words if w not in flags]
    for word in named[:-1]:  # two networks, or a misspelt flag before the network
        lookup("argument of this config", word, dict.fromkeys(flags))
    return (named[-1] if named else None), frozenset(words) - set(named)
