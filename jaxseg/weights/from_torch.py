"""Weights from PyTorch into our networks and back: strict, total, without PyTorch.

    report = from_torch.load(model, "segnext_tiny_512x512.pth")       # a file, or any dictionary of arrays
    print(report)
    arrays = from_torch.export(model, names=reference.state_dict())   # the other implementation's names and layouts
    from_torch.load(model, "theirs.pth", keys=[(r"^enc(\\d)\\.", r"encoder.\\1."), (r"^loss\\.", None)])  # names not known here

Every key of the file must find its tensor and every tensor its key; all differences come in one error. A family's
`KEY_MAPPINGS` say how others name our tensors; layers say how PyTorch lays them out:
conv [O, C/g, *k] <-> [*k, C/g, O], transposed conv [C, O, *k] <-> [*k, C, O], linear [O, C] <-> [C, O].
Where they keep apart what is one tensor here (query, key, value), rules name the parts "name#0", "name#1", ...
"""

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.layers.norm import Buffer
from jaxseg.models import functional
from jaxseg.models.base import KeyMapping, Segmenter
from jaxseg.types import ConfigError, MismatchError
from jaxseg.utils.lookup import lookup
from jaxseg.weights import torch_files

OWN = KeyMapping("own")  # our dotted names, PyTorch's layouts
CONTAINERS = ("state_dict", "model_state_dict", "model", "network_weights", "net", "network", "module", "weights", "params")
Keys = Mapping[str, str | None] | Sequence[tuple[str, str | None]]
_PART = re.compile(r"#(\d+)$")


class ImportReport(NamedTuple):
    """What became of every tensor.

    Attributes:
      key_mapping: whose names were read.
      origin: where in the file the weights were found ("state_dict > module."; "" for a plain dictionary).
      loaded: our names, taken as they are (layout changed where it must).
      adapted: (our name, what was done).
      initialised: (our name, why it keeps the value it had before).
      ignored: keys of the file that have no use here.
      numbers: how many numbers were loaded or adapted.
    """

    key_mapping: str
    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[tuple[str, str], ...]
    initialised: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    numbers: int

    def __str__(self) -> str:
        head = f"weights under the key mapping {self.key_mapping!r}" + (f", found under {self.origin}" if self.origin else "")
        lines = [f"{head}: {self.numbers:,} numbers", f"  loaded       {len(self.loaded):5d}"]
        for title, rows in (("adapted", self.adapted), ("initialised", self.initialised)):
            lines += [f"  {title:12s} {len(rows):5d}", *(f"    {name}: {why}" for name, why in rows)]
        lines.append(f"  ignored      {len(self.ignored):5d}" + (f"  {_some(self.ignored)}" if self.ignored else ""))
        return "\n".join(lines)


def load(
    model: Segmenter,
    source: str | os.PathLike | Mapping,
    *,
    key_mapping: str | None = None,
    adapt: bool = False,
    only: str = "",
    keys: Keys = (),
) -> ImportReport:
    """Put another implementation's weights, biases and buffers into `model`, in place.

    Args:
      model: the network that takes them.
      source: a file (.pth, .pt, TorchScript, .safetensors, .npz) or a mapping name -> array of PyTorch, numpy or jax,
        in PyTorch's layouts. A state dict inside a checkpoint (CONTAINERS) and a prefix that all its keys share
        ("module.") are found by themselves; the report says so.
      key_mapping: whose names the source uses; None takes the one under which most names fit. "own" is ours.
      adapt: let a network with other channels or classes take the rest. Stem: every input channel gets
        sum over the file's channels / C, so that equal channels give what they gave before. Classifier with another
        number of classes: keeps its initial values.
      only: take our tensors whose names begin so ("encoder.") and leave the others as they are, whatever else the source
        holds: an encoder that was trained elsewhere. Within `only` nothing may differ.
      keys: a table of your own for an implementation that no key mapping knows: (regular expression, replacement) in order,
        applied to every key; None in place of the replacement drops the keys that match. What comes out are our names
        (`export(model)` lists them); "name#0", "name#1" are the parts of one tensor, as in `base.KeyMapping`. BatchNorm's
        num_batches_tracked is dropped anyway. A table for a PSPNet on torchvision's names
        may begin:

            keys=[(r"^net\\.layer(\\d)\\.", r"encoder.stages.\\1."), (r"\\.bn(\\d)\\.", r".conv\\1.norm."), (r"^fc\\.", None)]
    Returns:
      The report; `print` it.
    Raises:
      MismatchError: any missing, unexpected, misshaped or non-finite tensor; all are listed, and the model is unchanged.
      ConfigError: no such key mapping, no tensor whose name begins with `only`, a table that is none.
      DataError: a file that cannot be used.

    A factorisation's bases (layers.norm.Buffer) are drawn, not learned: where the source has none (a SegNeXt that has
    seen no image yet) ours stay, and the report lists them as initialised.
    """
    tensors, container = _tensors(source)
    network, params, state = functional.split(model)
    values, leaves = {**params, **state}, dict(zip(network.names, network.leaves))
    leaves, left = _under(only, leaves)
    chosen, prefix, names, dropped = _match(tensors, leaves, _key_mappings(model, keys), key_mapping)
    dropped += [key for key, name in names.items() if not name.startswith(only)]
    tensors, names, problems = _join(tensors, {key: name for key, name in names.items() if name.startswith(only)})
    loaded, adapted, initialised = [], [], [(name, f"outside only={only!r}") for name in left]
    given: dict[str, str] = {}
    for key, name in names.items():
        if name not in leaves:
            problems.append(f"unexpected {key} {list(tensors[key].shape)}" + (f" (read as {name})" if name != key else ""))
        elif name in given:
            problems.append(f"two keys for {name}: {given[name]} and {key}")
        else:
            given[name] = key
    for name, leaf in leaves.items():
        if name not in given:
            if issubclass(leaf.kind, Buffer):
                initialised.append((name, "drawn, not learned; the source has none"))
            else:
                problems.append(f"missing {name} {list(leaf.shape)}")
            continue
        if np.iscomplexobj(tensors[given[name]]):
            problems.append(f"{given[name]} holds complex numbers")
            continue
        array, action = _fit(model, name, leaf, from_layout(tensors[given[name]], leaf), adapt)
        if array is None:
            if action:
                initialised.append((name, action))
            else:
                problems.append(_misshaped(name, leaf, given[name], tensors[given[name]]))
        elif not np.isfinite(array).all():
            problems.append(f"{given[name]} holds {int((~np.isfinite(array)).sum())} numbers that are not finite")
        else:
            values[name] = np.array(array, leaf.dtype, order="C")  # a copy: the source may change or be unmapped
            adapted.append((name, action)) if action else loaded.append(name)
    if problems:
        raise MismatchError(_message(model, chosen.name, problems, tensors, leaves))
    functional.assign(model, {n: values[n] for n in params}, {n: values[n] for n in state})
    origin = " > ".join(filter(None, (container, prefix)))
    taken = (*loaded, *(n for n, _ in adapted))
    return ImportReport(
        chosen.name,
        origin,
        tuple(loaded),
        tuple(adapted),
        tuple(initialised),
        tuple(dropped),
        sum(math.prod(leaves[n].shape) for n in taken),
    )


def export(
    model: Segmenter, *, key_mapping: str | None = None, names: Iterable[str] | Mapping | None = None, keys: Keys = ()
) -> dict[str, np.ndarray]:
    """The weights, biases and buffers of `model` as numpy arrays in PyTorch's layouts.

    Args:
      model: the network.
      key_mapping: whose names `names` are; None takes the one under which most fit.
      names: the keys of the other implementation's state dict, or that dict itself: each key is read by the same rules
        as `load` reads it, so that what `load` took goes back where it came from. None: our own dotted names.
        Keys that the key mapping ignores (num_batches_tracked) are left out: load with strict=False.
      keys: the table that `load` was given, if it was given one.
    Returns:
      name -> array; `load(model, export(model))` changes nothing.
    Raises:
      MismatchError: a key that means no tensor of this network, or a tensor that no key means.
    """
    network, params, state = functional.split(model)
    leaves, values = dict(zip(network.names, network.leaves)), {**params, **state}
    arrays = {name: to_layout(np.asarray(values[name]), leaf) for name, leaf in leaves.items()}
    if names is None:
        if key_mapping not in (None, OWN.name):
            raise ConfigError(f"got key_mapping={key_mapping!r} without names: pass names=state_dict of that implementation")
        return arrays
    shapes = dict(torch_files.flatten(names)) if isinstance(names, Mapping) else dict.fromkeys(names)
    chosen, _, mapped, _ = _match(shapes, leaves, _key_mappings(model, keys), key_mapping)
    arrays |= _cut(arrays, mapped, shapes)
    problems = [f"{key} means no tensor (read as {name})" for key, name in mapped.items() if name not in arrays]
    problems += [
        f"no key means {name}"
        for name in leaves.keys() - {_whole(n) for n in mapped.values()}
        if not issubclass(leaves[name].kind, Buffer)
    ]
    out = {key: arrays[name] for key, name in mapped.items() if name in arrays}
    for key, reference in shapes.items():
        if key in out and reference is not None and out[key].shape != reference.shape:
            if out[key].size != reference.size:
                problems.append(f"shape of {key}: ours {out[key].shape}, theirs {reference.shape}")
            else:
                out[key] = out[key].reshape(reference.shape)  # a 1x1 convolution there, a linear layer here
    if problems:
        raise MismatchError(_message(model, chosen.name, sorted(problems), shapes, leaves))
    return out


def from_layout(array: np.ndarray, leaf: functional.Leaf) -> np.ndarray:
    """An array in PyTorch's layout, converted to ours. A 1x1 convolution and a linear layer may stand for each other."""
    if leaf.layout is None:
        return array
    if leaf.layout == "linear" and array.ndim > 2 and math.prod(array.shape[2:]) == 1:
        array = array.reshape(array.shape[:2])
    if leaf.layout == "conv" and array.ndim == 2 and math.prod(leaf.shape[:-2]) == 1:
        array = array.reshape(*array.shape, *leaf.shape[:-2])
    if array.ndim != len(leaf.shape):
        return array
    last = (0, 1) if leaf.layout == "conv_transpose" else (1, 0)
    return array.transpose(*range(2, array.ndim), *last)


def to_layout(array: np.ndarray, leaf: functional.Leaf) -> np.ndarray:
    """The inverse of `from_layout`, as a copy."""
    if leaf.layout is None:
        return np.array(array)
    first = (array.ndim - 2, array.ndim - 1) if leaf.layout == "conv_transpose" else (array.ndim - 1, array.ndim - 2)
    return np.array(array.transpose(*first, *range(array.ndim - 2)), order="C")


def _tensors(source) -> tuple[dict[str, np.ndarray], str]:
    """The state dict of a file or mapping, and the containers it was found in."""
    tree = source if isinstance(source, Mapping) else torch_files.load(source)
    path = []
    while isinstance(tree, Mapping):
        inner = next((c for c in CONTAINERS if isinstance(tree.get(c), Mapping)), None)
        if inner is None or any(hasattr(v, "shape") for v in tree.values()):
            break
        path.append(inner)
        tree = tree[inner]
    tensors = torch_files.flatten(tree)
    if not tensors:
        raise MismatchError(
            f"no tensors in {source if not isinstance(source, Mapping) else 'the mapping'}: "
            f"pass a state dict, or a checkpoint that holds one under {', '.join(CONTAINERS)}"
        )
    return tensors, " > ".join(path)


def _key_mappings(model: Segmenter, keys: Keys = ()) -> tuple[KeyMapping, ...]:
    """Ours, and those that the family's file (or the user's own) declares; with a table of keys, that alone."""
    if not keys:
        return (OWN, *getattr(sys.modules[type(model).__module__], "KEY_MAPPINGS", ()))
    rules = tuple(keys.items() if isinstance(keys, Mapping) else map(tuple, keys))
    for rule in rules:
        try:
            pattern, replacement = rule
            re.sub(pattern, replacement or "", "")
        except (ValueError, TypeError, IndexError, re.error) as error:
            raise ConfigError(f"keys: {rule!r} must be (regular expression, replacement or None): {error}") from error
    return (
        KeyMapping(
            "keys", tuple(r for r in rules if r[1] is not None), (r"num_batches_tracked$", *(r[0] for r in rules if r[1] is None))
        ),
    )


def _match(tensors: Mapping, leaves: Mapping, mappings: tuple[KeyMapping, ...], wanted: str | None):
    """(mapping, prefix, key -> our name, ignored keys) under which most keys fit; earlier mappings win ties."""
    if wanted is not None:
        mappings = (lookup("key mapping", wanted, {s.name: s for s in mappings}),)
    best = None
    for prefix in _prefixes(tensors):
        for mapping in mappings:
            names, dropped = _rename(list(tensors), prefix, mapping)
            score = len(leaves.keys() & {_whole(n) for n in names.values()})
            if best is None or score > best[0]:
                best = score, mapping, prefix, names, dropped
    return best[1:]


def _prefixes(keys: Iterable[str]) -> list[str]:
    """ "" and every dotted prefix that all keys share: "module.", "module.model."."""
    found, keys = [""], list(keys)
    while True:
        start = len(found[-1])
        first = keys[0][start:].partition(".")
        prefix = found[-1] + first[0] + "."
        if not first[1] or not all(k.startswith(prefix) and len(k) > len(prefix) for k in keys):
            return found
        found.append(prefix)


def _rename(keys: list[str], prefix: str, mapping: KeyMapping) -> tuple[dict[str, str], list[str]]:
    names, dropped = {}, []
    for key in keys:
        name = key[len(prefix) :]
        if any(re.search(pattern, name) for pattern in mapping.ignored):
            dropped.append(key)
            continue
        for pattern, replacement in mapping.rules:
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names, dropped


def _under(only: str, leaves: Mapping) -> tuple[dict, list[str]]:
    """The tensors whose names begin with `only`, and the names of the others."""
    wanted = {name: leaf for name, leaf in leaves.items() if name.startswith(only)}
    if not wanted:
        starts = sorted({name.partition(".")[0] + "." for name in leaves})
        raise ConfigError(f"got only={only!r}: no tensor's name begins so; they begin with {', '.join(starts)}")
    return wanted, [name for name in leaves if name not in wanted]


def _whole(name: str) -> str:
    """The name of the tensor that "name#0" is a part of; other names as they are."""
    return _PART.sub("", name)


def _parts(names: Mapping[str, str]) -> dict[str, list[tuple[int, str]]]:
    """The tensors that come in parts "name#0", "name#1", ...: name -> [(number, key)], sorted."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key, name in names.items():
        if part := _PART.search(name):
            found.setdefault(_whole(name), []).append((int(part[1]), key))
    return {name: sorted(parts) for name, parts in found.items()}


def _join(tensors: Mapping, names: Mapping[str, str]) -> tuple[dict, dict[str, str], list[str]]:
    """(tensors, key -> name, problems): parts replaced by one array, concatenated along PyTorch's output axis, the first."""
    tensors, joined, problems = dict(tensors), {k: n for k, n in names.items() if not _PART.search(n)}, []
    for name, parts in _parts(names).items():
        arrays = [np.asarray(tensors[key]) for _, key in parts]
        if _numbered(parts) and all(a.ndim and a.shape[1:] == arrays[0].shape[1:] for a in arrays):
            label = " + ".join(key for _, key in parts)
            tensors[label], joined[label] = np.concatenate(arrays), name
        else:
            problems.append(
                f"parts of {name} cannot be joined: "
                + ", ".join(f"#{n} {key} {list(a.shape)}" for (n, key), a in zip(parts, arrays))
            )
    return tensors, joined, problems


def _cut(arrays: Mapping, names: Mapping[str, str], shapes: Mapping) -> dict[str, np.ndarray]:
    """The inverse of `_join`: "name#i" -> array, of as many rows as its key has in `shapes`; equal parts where none are known."""
    cut = {}
    for name, parts in _parts(names).items():
        if name in arrays and _numbered(parts):
            rows = [None if shapes[key] is None else (*shapes[key].shape, 1)[0] for _, key in parts]
            edges = len(parts) if None in rows else np.cumsum(rows)[:-1]
            cut |= {f"{name}#{n}": a for (n, _), a in zip(parts, np.array_split(arrays[name], edges))}
    return cut


def _numbered(parts: list[tuple[int, str]]) -> bool:
    return [n for n, _ in parts] == list(range(len(parts)))


def _fit(model: Segmenter, name: str, leaf: functional.Leaf, array: np.ndarray, adapt: bool):
    """(array or None, what was done or ""): an array that fits, perhaps adapted; None and "" where it cannot."""
    want, got = tuple(leaf.shape), tuple(array.shape)
    if want == got:
        return array.astype(leaf.dtype), ""
    if not adapt or len(want) != len(got):
        return None, ""
    if leaf.layout == "conv" and want[-2] == model.in_channels and want[:-2] + want[-1:] == got[:-2] + got[-1:]:
        total = array.astype(np.float32).sum(-2, keepdims=True) / want[-2]
        return np.broadcast_to(total, want), f"sum of {got[-2]} input channels, shared by {want[-2]}"
    if want[-1] == model.num_classes and want[:-1] == got[:-1]:
        return None, f"{got[-1]} classes in the source, {want[-1]} here"
    return None, ""


def _misshaped(name: str, leaf: functional.Leaf, key: str, array: np.ndarray) -> str:
    expected = to_layout(np.broadcast_to(np.float32(0), leaf.shape), leaf).shape
    return f"shape of {key}: expected {list(expected)} for {name}, found {list(array.shape)}"


def _message(model, key_mapping: str, problems: list[str], theirs: Mapping, ours: Mapping) -> str:
    remedy = ""
    if not any(k in ours for k in theirs) and len(problems) >= len(ours):
        remedy = f"\n  no key mapping fits: names look like {_some(list(theirs), 3)}; ours like {_some(list(ours), 3)}"
    elif any(p.startswith("shape") for p in problems):
        remedy = "\n  another number of input channels or classes: adapt=True; arrays in our own layout: functional.assign"
    return (
        f"{len(problems)} differences between the weights (key mapping {key_mapping!r}) and this {type(model).__name__}:\n  "
        + "\n  ".join(problems)
        + remedy
    )


def _some(items, limit: int = 6) -> str:
    return ", ".join(items[:limit]) + (f", ... ({len(items)})" if len(items) > limit else "")
