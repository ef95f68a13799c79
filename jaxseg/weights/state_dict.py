"""Find a network's state dict in a file: its entry, its prefix, its key mapping, and the other parts of the file.

Training code nests its weights ({"state_dict": ..., "optimizer": ...}), wraps modules (DataParallel's "module.", torch.compile's
"_orig_mod.", Lightning's "model."), and keeps averages (EMA), optimiser states, losses and metrics beside them. The entry and
prefix with most of the network's names are used; the other parts are listed, and `under` chooses one of them instead.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.models.base import KeyMapping
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

PART = re.compile(r"#(\d+)$")
WRAPPERS = re.compile(
    r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)  # may wrap any module, not only the outermost one
# Names under which training code keeps other tensors beside a network's weights.
BESIDE = re.compile(
    r"(^|_)(loss(es)?|criterion|criteria|objective|metrics?|optim(izers?)?|(lr_)?schedulers?|scaler|ema|averaged?|teacher"
    r"|epoch|step|iteration|logvar)(_|$)|^(train|val|valid|validation|test|eval)_"
)


class Part(NamedTuple):
    """A state dict within a file.

    Attributes:
      mapping: the key mapping that fits.
      origin: where it was found ("state_dict > module."; "" for the whole file).
      names: {key: jaxseg's name} of the keys that are weights.
      dropped: keys that are not used: ignored by the mapping, or beside the weights.
      others: other parts with equally many of the network's names (such as an EMA).
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
    unwanted: Sequence[str] = (),
) -> Part:
    """Find the part of a file that holds a network's weights.

    Args:
      keys: dotted keys of all tensors of the file.
      leaves: the network's tensors by name.
      mappings: the key mappings to try; the earlier one wins a tie.
      wanted: name of the key mapping to use; None: the one that fits best.
      tree: the nested content of the file, to tell entries from prefixes of names; None for a flat list of keys.
      under: the entry or prefix to use, in the form of `Part.others`; "": the best one, an average only if there is no other.
      unwanted: regular expressions of keys to drop, as they stand in the file.
    Raises:
      ConfigError: there is no such mapping, or no tensor under `under`.
    """
    if wanted is not None:
        mappings = (lookup("key mapping", wanted, {m.name: m for m in mappings}),)
    keys = list(keys)
    left_out = {key: None for key in keys if any(re.search(pattern, key) for pattern in unwanted)}
    keys, start = [key for key in keys if key not in left_out], under.replace(" > ", ".").strip(".")
    inside = [key for key in keys if key.startswith(start + ".")] if start else keys
    if not inside:
        tops = sorted({key.partition(".")[0] for key in keys})
        raise ConfigError(f"got under={under!r}: there are no tensors under it; the file's entries are {', '.join(tops[:20])}")
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
    dropped += left_out
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
    """({key: jaxseg's name}, keys that the mapping ignores) for the keys that start with the prefix."""
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
    """The name without "#0", "#1", ..., which number the parts of a tensor."""
    return PART.sub("", name)


def groups(keys: Iterable[str]) -> list[str]:
    """A short list of keys, grouped by their first part: ["criterion.weight", "optimizer.* (292)"]."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(key.partition(".")[0], []).append(key)
    return [some[0] if len(some) == 1 else f"{top}.* ({len(some)})" for top, some in found.items()]


def _prefixes(keys: list[str]) -> list[tuple[str, int]]:
    """(dotted prefix, number of keys that have it), the most frequent first, then the shortest; "" is a prefix too."""
    counts = collections.Counter({"": len(keys)})
    for key in keys:
        parts = key.split(".")[:-1]
        counts.update(".".join(parts[: i + 1]) + "." for i in range(min(len(parts), 8)))
    return sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))


def _path(tree: Mapping | None, prefix: str) -> list[str]:
    """The nested entries of the file with which the prefix starts."""
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
    """Whether a part of the prefix is a name under which training code keeps other tensors (optimiser states, losses, EMA)."""
    return any(BESIDE.search(name.lower()) for name in prefix.split(".") if name)


def numbered(parts: list[tuple[int, str]]) -> bool:
    """Whether parts are numbered 0, 1, 2, ..."""
    return [n for n, _ in parts] == list(range(len(parts)))


def parts_of(names: Mapping[str, str]) -> dict[str, list[tuple[int, str]]]:
    """{name: sorted [(number, key)]} of the tensors that come in parts "name#0", "name#1", ..."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key, name in names.items():
        if part := PART.search(name):
            found.setdefault(whole(name), []).append((int(part[1]), key))
    return {name: sorted(parts) for name, parts in found.items()}


def join(tensors: Mapping, names: Mapping[str, str]) -> tuple[dict, dict[str, str], list[str]]:
    """(tensors, {key: name}, problems), where the parts of a tensor are concatenated along axis 0, PyTorch's output axis."""
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
    """The inverse of `join`: {"name#i": array}, with as many rows as its key has in `shapes` (equal parts if it is not there)."""
    found = {}
    for name, parts in parts_of(names).items():
        if name in arrays and numbered(parts):
            rows = [None if shapes[key] is None else (*shapes[key].shape, 1)[0] for _, key in parts]
            edges = len(parts) if None in rows else np.cumsum(rows)[:-1]
            found |= {f"{name}#{n}": a for (n, _), a in zip(parts, np.array_split(arrays[name], edges))}
    return found
