"""Which part of a file is a network's state dict: under which entry and prefix, in whose names, and what lies beside it.

Training code nests its weights ({"state_dict": ..., "optimizer": ...}), wraps modules (DataParallel's "module.", torch.compile's
"_orig_mod.", Lightning's "model."), and keeps averages (EMA), optimiser states, losses and metrics beside them. The part is taken
under whose entry and prefix most of the network's names are found; the others are named, and `under` chooses another one.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxseg.models.base import KeyMapping
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

PART = re.compile(r"#(\d+)$")
WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # around any module, not the whole alone
# Names that training gives what it keeps beside a network's weights.
BESIDE = re.compile(
    r"(^|_)(loss(es)?|criterion|criteria|objective|metrics?|optim(izers?)?|(lr_)?schedulers?|scaler|ema|averaged?|teacher"
    r"|epoch|step|iteration|(train|val|valid|test)_(dice|iou|acc|accuracy))(_|$)"
)


class Part(NamedTuple):
    """A state dict within a file.

    Attributes:
      mapping: whose names it uses.
      origin: where it was found ("state_dict > module."; "" for the whole).
      names: key -> our name, of the keys that are weights.
      dropped: keys without use here: ignored by the mapping, or beside the weights.
      others: further parts in which as many of the network's names are found (an EMA).
    """

    mapping: KeyMapping
    origin: str
    names: dict[str, str]
    dropped: list[str]
    others: tuple[str, ...]


def find(
    keys: Iterable[str],
    leaves: Mapping[str, Any],
    mappings: tuple[KeyMapping, ...],
    *,
    wanted: str | None = None,
    tree: Mapping | None = None,
    under: str = "",
) -> Part:
    """The part of a file that a network's weights are read from.

    Args:
      keys: of all tensors, dotted.
      leaves: the network's own names.
      mappings: how others name them; earlier ones win ties.
      wanted: the name of one of them; None: the best.
      tree: the file as it is nested, whose entries are no prefixes of names; None for a flat list of keys.
      under: the entry or prefix that is to be taken, as `Part.others` names it; "": the best, an average only where it is alone.
    Raises:
      ConfigError: no such mapping, or nothing under `under`.
    """
    if wanted is not None:
        mappings = (lookup("key mapping", wanted, {m.name: m for m in mappings}),)
    keys, start = list(keys), under.replace(" > ", ".").strip(".")
    inside = [key for key in keys if key.startswith(start + ".")] if start else keys
    if not inside:
        tops = sorted({key.partition(".")[0] for key in keys})
        raise ConfigError(f"got under={under!r}: no tensor lies there; the file's entries are {', '.join(tops[:20])}")
    tried = []  # (names found, prefix, mapping)
    for prefix, count in _prefixes(inside):
        if count < max((found for found, *_ in tried), default=0):
            break  # no more names than keys
        for mapping in mappings:
            names, _ = rename([key for key in inside if key.startswith(prefix)], prefix, mapping)
            tried.append((len(leaves.keys() & {whole(name) for name in names.values()}), prefix, mapping))
    most = max(found for found, *_ in tried)
    best = [(prefix, mapping) for found, prefix, mapping in tried if found == most]
    best.sort(key=lambda choice: _beside(choice[0]) and not start)  # stable: shorter prefixes and earlier mappings first
    prefix, mapping = best[0]
    path = _path(tree, prefix)
    container = "".join(f"{name}." for name in path)
    names, dropped = rename([key for key in inside if key.startswith(prefix)], prefix, mapping)
    for key in keys:
        if key in names:
            if whole(names[key]) not in leaves and _beside(key[len(prefix) :].partition(".")[0] + "."):
                dropped.append(key)
                del names[key]
        elif not key.startswith(prefix):
            if not key.startswith(container) or start or _beside(key[len(container) :].partition(".")[0] + "."):
                dropped.append(key)
            else:
                names[key] = key[len(container) :]
    apart = {p for p, _ in best if most and not p.startswith(prefix) and not prefix.startswith(p)}
    return Part(mapping, _origin(path, prefix), names, dropped, tuple(sorted(_origin(_path(tree, p), p) for p in apart)))


def rename(keys: Iterable[str], prefix: str, mapping: KeyMapping) -> tuple[dict[str, str], list[str]]:
    """(key -> our name, keys that the mapping ignores) of keys that begin with the prefix."""
    names, dropped = {}, []
    for key in keys:
        name = WRAPPERS.sub("", key[len(prefix) :])
        if any(re.search(pattern, name) for pattern in mapping.ignored):
            dropped.append(key)
            continue
        for pattern, replacement in mapping.rules:
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names, dropped


def whole(name: str) -> str:
    """The name of the tensor that "name#0" is a part of; other names as they are."""
    return PART.sub("", name)


def groups(keys: Iterable[str]) -> list[str]:
    """Keys in short, by their first name: ["criterion.weight", "optimizer.* (292)"]."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(key.partition(".")[0], []).append(key)
    return [some[0] if len(some) == 1 else f"{top}.* ({len(some)})" for top, some in found.items()]


def _prefixes(keys: list[str]) -> list[tuple[str, int]]:
    """(dotted prefix, how many keys have it), the most frequent and of these the shortest first; "" is one."""
    counts = collections.Counter({"": len(keys)})
    for key in keys:
        parts = key.split(".")[:-1]
        counts.update(".".join(parts[: i + 1]) + "." for i in range(min(len(parts), 8)))
    return sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))


def _path(tree: Mapping | None, prefix: str) -> list[str]:
    """The entries of a nested file that the prefix begins with."""
    path: list[str] = []
    while isinstance(tree, Mapping):
        entry = next((k for k, v in tree.items() if isinstance(v, Mapping) and prefix.startswith(f"{k}.")), None)
        if entry is None:
            break
        path.append(str(entry))
        prefix, tree = prefix[len(str(entry)) + 1 :], tree[entry]
    return path


def _origin(path: list[str], prefix: str) -> str:
    return " > ".join(filter(None, (*path, prefix[sum(len(name) + 1 for name in path) :])))


def _beside(prefix: str) -> bool:
    """Whether a name of the prefix is one that training gives what it keeps beside the weights."""
    return any(BESIDE.search(name.lower()) for name in prefix.split(".") if name)


def numbered(parts: list[tuple[int, str]]) -> bool:
    """Whether parts are numbered 0, 1, 2, ..."""
    return [n for n, _ in parts] == list(range(len(parts)))


def parts_of(names: Mapping[str, str]) -> dict[str, list[tuple[int, str]]]:
    """The tensors that come in parts "name#0", "name#1", ...: name -> [(number, key)], sorted."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key, name in names.items():
        if part := PART.search(name):
            found.setdefault(whole(name), []).append((int(part[1]), key))
    return {name: sorted(parts) for name, parts in found.items()}


def join(tensors: Mapping, names: Mapping[str, str]) -> tuple[dict, dict[str, str], list[str]]:
    """(tensors, key -> name, problems): parts replaced by one array, concatenated along PyTorch's output axis, the first."""
    tensors, joined, problems = dict(tensors), {k: n for k, n in names.items() if not PART.search(n)}, []
    for name, parts in parts_of(names).items():
        arrays = [np.asarray(tensors[key]) for _, key in parts]
        if numbered(parts) and all(a.ndim and a.shape[1:] == arrays[0].shape[1:] for a in arrays):
            label = " + ".join(key for _, key in parts)
            tensors[label], joined[label] = np.concatenate(arrays), name
        else:
            problems.append(
                f"parts of {name} cannot be joined: "
                + ", ".join(f"#{n} {key} {list(a.shape)}" for (n, key), a in zip(parts, arrays))
            )
    return tensors, joined, problems


def cut(arrays: Mapping, names: Mapping[str, str], shapes: Mapping) -> dict[str, np.ndarray]:
    """The inverse of `join`: "name#i" -> array, of as many rows as its key has in `shapes`; equal parts where none are known."""
    found = {}
    for name, parts in parts_of(names).items():
        if name in arrays and numbered(parts):
            rows = [None if shapes[key] is None else (*shapes[key].shape, 1)[0] for _, key in parts]
            edges = len(parts) if None in rows else np.cumsum(rows)[:-1]
            found |= {f"{name}#{n}": a for (n, _), a in zip(parts, np.array_split(arrays[name], edges))}
    return found
