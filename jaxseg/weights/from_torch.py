"""Load PyTorch weights into a network and export them again: strict, complete, without PyTorch.

    report = from_torch.load(model, "segnext_tiny_512x512.pth")       # a file, or any dictionary of arrays
    print(report)
    arrays = from_torch.export(model, names=reference.state_dict())   # the other implementation's names and layouts
    from_torch.load(model, "theirs.pth", keys=[(r"^enc(\\d)\\.", r"encoder.\\1."), (r"^loss\\.", None)])  # your own key mapping

Every key of the file must belong to a tensor of the network and every tensor must have a key; all differences come in one error.
The `KEY_MAPPINGS` of a network family map the names of other implementations to jaxseg's; each layer knows PyTorch's layout of
its tensors: conv [O, C/g, *k] <-> [*k, C/g, O], transposed conv [C, O, *k] <-> [*k, C, O], linear [O, C] <-> [C, O].
Where another implementation has several tensors for one here (query, key, value), they are called "name#0", "name#1", ...
"""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.layers.norm import Buffer
from jaxseg.models import functional
from jaxseg.models.base import KeyMapping, Segmenter
from jaxseg.models.registry import same_tensors
from jaxseg.types import ConfigError, MismatchError
from jaxseg.weights import state_dict, torch_files

OWN = KeyMapping("own")  # jaxseg's dotted names, PyTorch's layouts
Keys = Mapping[str, str | None] | Sequence[tuple[str, str | None]]


class ImportReport(NamedTuple):
    """What was done with every tensor; print it to read it.

    Attributes:
      key_mapping: the key mapping that was used.
      origin: where in the file the weights were found ("state_dict > module."; "" for a plain dictionary).
      loaded: names of the tensors that were loaded unchanged (apart from PyTorch's layout).
      adapted: (name, how the tensor was adapted).
      initialised: (name, why the tensor keeps its previous value).
      ignored: keys of the file that were not used.
      numbers: how many numbers were loaded or adapted.
      others: further parts of the file with the same tensors (such as an average of the weights), for the argument `under`.
      siblings: other networks with the same tensor names and shapes, to which the file may belong instead.
    """

    key_mapping: str
    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[tuple[str, str], ...]
    initialised: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    numbers: int
    others: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"weights under the key mapping {self.key_mapping!r}" + (f", found under {self.origin}" if self.origin else "")
        lines = [f"{head}: {self.numbers:,} numbers", f"  loaded       {len(self.loaded):5d}"]
        for title, rows in (("adapted", self.adapted), ("initialised", self.initialised)):
            lines += [f"  {title:12s} {len(rows):5d}", *(f"    {name}: {why}" for name, why in rows)]
        left = state_dict.groups(self.ignored)
        lines.append(f"  left out     {len(self.ignored):5d}" + (f"  {_some(left, 20)}" if left else ""))
        if self.others:
            lines.append(
                f"  the same tensors are also under {' and '.join(self.others)}; to load those: "
                f"under={self.others[0]!r} "
                f"(jaxseg.convert --under={shlex.quote(self.others[0])})"
            )
        if self.siblings:
            lines.append(
                f"  WARNING {' and '.join(self.siblings)}: the same tensor names and shapes, but another computation; make sure "
                "that the file belongs to this network"
            )
        return "\n".join(lines)


def load(
    model: Segmenter,
    source: str | os.PathLike | Mapping,
    *,
    key_mapping: str | None = None,
    adapt: bool = False,
    only: str = "",
    keys: Keys = (),
    under: str = "",
) -> ImportReport:
    """Load another implementation's weights, biases and buffers into `model`, in place.

    The bases of a matrix factorisation (layers.norm.Buffer) are random, not learned: where the source has none (a SegNeXt that
    has not seen an image yet), the model keeps its own, and the report lists them as initialised.

    Args:
      model: the network.
      source: a file (.pth, .pt, TorchScript, .safetensors, .npz) or a mapping name -> array of PyTorch, numpy or jax,
        in PyTorch's layouts. The state dict inside a checkpoint, and the prefix of its keys ("module."), are detected;
        optimiser states, losses and metrics beside it are left out and listed in the report.
      key_mapping: the implementation whose tensor names the source has; None: the one that fits most names; "own": jaxseg's.
      adapt: accept another number of input channels or classes. First layer: every input channel gets the sum over the file's
        channels / C, so that equal channels give the same result as before. Classifier: it keeps its initial values.
      only: load only the tensors whose jaxseg names start with this ("encoder."), and leave all others unchanged: for an
        encoder that was trained elsewhere. These tensors must all be present and fit.
      keys: your own table for an implementation without a key mapping: (regular expression, replacement) in order, applied to
        every key; a replacement None drops the keys that match, also as they stand in the file. The results must be jaxseg's
        names (`export(model)` lists them); "name#0", "name#1" are the parts of one tensor, as in `base.KeyMapping`. BatchNorm's
        num_batches_tracked is always dropped. A table that only drops keys leaves the known key mappings in use. A table for a
        PSPNet with torchvision's names may start:

            keys=[(r"^net\\.layer(\\d)\\.", r"encoder.stages.\\1."), (r"\\.bn(\\d)\\.", r".conv\\1.norm."), (r"^fc\\.", None)]
      under: the entry or prefix of the file that holds the weights ("state_dict_ema", "ema_model."); "": the one that fits most
        names, and an average of the weights only if there is nothing else.
    Returns:
      The report; `print` it.
    Raises:
      MismatchError: any missing, unexpected, misshaped or non-finite tensor; all are listed, and the model is unchanged.
      ConfigError: there is no such key mapping, no tensor under `only` or `under`, or `keys` is not such a table.
      DataError: the file cannot be used.
    """
    tensors, tree = _tensors(source)
    network, params, state = functional.split(model)
    values, leaves = {**params, **state}, dict(zip(network.names, network.leaves))
    leaves, left = _under(only, leaves)
    mappings = _key_mappings(model, keys)
    part = state_dict.find(tensors, leaves, mappings, wanted=key_mapping, tree=tree, under=under, unwanted=_unwanted(keys))
    dropped = part.dropped + [key for key, name in part.names.items() if not name.startswith(only)]
    tensors, names, problems = state_dict.join(tensors, {key: n for key, n in part.names.items() if n.startswith(only)})
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
                initialised.append((name, "random, not learned; the source has none"))
            else:
                problems.append(f"missing {name} {_as_torch(leaf)}")
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
        raise MismatchError(_message(model, part.mapping.name, problems, tensors, leaves, names))
    functional.assign(model, {n: values[n] for n in params}, {n: values[n] for n in state})
    taken = (*loaded, *(n for n, _ in adapted))
    return ImportReport(
        part.mapping.name,
        part.origin,
        tuple(loaded),
        tuple(adapted),
        tuple(initialised),
        tuple(dropped),
        sum(math.prod(leaves[n].shape) for n in taken),
        part.others,
        same_tensors(model),
    )


def export(
    model: Segmenter, *, key_mapping: str | None = None, names: Iterable[str] | Mapping | None = None, keys: Keys = ()
) -> dict[str, np.ndarray]:
    """The weights, biases and buffers of `model` as numpy arrays in PyTorch's layouts.

    Args:
      model: the network.
      key_mapping: the implementation that `names` come from; None: the one that fits most names.
      names: the keys of the other implementation's state dict, or that dict itself. Each key is mapped as in `load`, so that
        every tensor goes back to where `load` read it. None: jaxseg's own dotted names. Keys that the key mapping ignores
        (num_batches_tracked) are left out: use strict=False in PyTorch's load_state_dict.
      keys: the table that was given to `load`, if any.
    Returns:
      {name: array}; `load(model, export(model))` changes nothing.
    Raises:
      MismatchError: a key belongs to no tensor of this network, or a tensor has no key.
    """
    network, params, state = functional.split(model)
    leaves, values = dict(zip(network.names, network.leaves)), {**params, **state}
    arrays = {name: to_layout(np.asarray(values[name]), leaf) for name, leaf in leaves.items()}
    if names is None:
        if key_mapping not in (None, OWN.name):
            raise ConfigError(f"got key_mapping={key_mapping!r} without names; pass names=the state_dict of that implementation")
        return arrays
    shapes = dict(torch_files.flatten(names)) if isinstance(names, Mapping) else dict.fromkeys(names)
    part = state_dict.find(
        shapes,
        leaves,
        _key_mappings(model, keys),
        wanted=key_mapping,
        tree=names if isinstance(names, Mapping) else None,
        unwanted=_unwanted(keys),
    )
    mapped = part.names
    arrays |= state_dict.cut(arrays, mapped, shapes)
    problems = [f"{key} belongs to no tensor (read as {name})" for key, name in mapped.items() if name not in arrays]
    problems += [
        f"no key for {name}"
        for name in leaves.keys() - {state_dict.whole(n) for n in mapped.values()}
        if not issubclass(leaves[name].kind, Buffer)
    ]
    out = {key: arrays[name] for key, name in mapped.items() if name in arrays}
    for key, reference in shapes.items():
        if key in out and reference is not None and out[key].shape != reference.shape:
            if out[key].size != reference.size:
                problems.append(f"shape of {key}: here {out[key].shape}, in names {reference.shape}")
            else:
                out[key] = out[key].reshape(reference.shape)  # a 1x1 convolution there is a linear layer here
    if problems:
        raise MismatchError(_message(model, part.mapping.name, sorted(problems), shapes, leaves, mapped))
    return out


def from_layout(array: np.ndarray, leaf: functional.Leaf) -> np.ndarray:
    """Convert an array from PyTorch's layout to jaxseg's. A 1x1 convolution may become a linear layer and vice versa."""
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


def _tensors(source) -> tuple[dict[str, np.ndarray], Mapping | None]:
    """(all tensors of a file or mapping by dotted name, the nested mapping itself)."""
    tree = source if isinstance(source, Mapping) else torch_files.load(source)
    tensors = torch_files.flatten(tree)
    if not tensors:
        raise MismatchError(
            f"no tensors in {source if not isinstance(source, Mapping) else 'the mapping'}; pass a state dict, or a checkpoint "
            "that contains one"
        )
    return tensors, tree if isinstance(tree, Mapping) else None


def _key_mappings(model: Segmenter, keys: Keys = ()) -> tuple[KeyMapping, ...]:
    """The key mappings to try: jaxseg's own names and those of the network's family; with a table that renames, it alone."""
    known = (OWN, *getattr(sys.modules[type(model).__module__], "KEY_MAPPINGS", ()))
    rules = _rules(keys)
    for rule in rules:
        try:
            pattern, replacement = rule
            re.sub(pattern, replacement or "", "")
        except (ValueError, TypeError, IndexError, re.error) as error:
            raise ConfigError(f"keys: {rule!r} must be (regular expression, replacement or None): {error}") from error
    ignored = (r"num_batches_tracked$", *_unwanted(keys)) if rules else ()
    if renaming := tuple(r for r in rules if r[1] is not None):
        return (KeyMapping("keys", renaming, ignored),)
    return tuple(mapping._replace(ignored=(*mapping.ignored, *ignored)) for mapping in known)


def _rules(keys: Keys) -> tuple[tuple, ...]:
    return tuple(keys.items() if isinstance(keys, Mapping) else map(tuple, keys))


def _unwanted(keys: Keys) -> tuple[str, ...]:
    """The patterns of the keys that a table drops."""
    return tuple(pattern for pattern, replacement in _rules(keys) if replacement is None)


def _under(only: str, leaves: Mapping) -> tuple[dict, list[str]]:
    """The tensors whose names start with `only`, and the names of the others."""
    wanted = {name: leaf for name, leaf in leaves.items() if name.startswith(only)}
    if not wanted:
        starts = sorted({name.partition(".")[0] + "." for name in leaves})
        raise ConfigError(f"got only={only!r}: no tensor's name starts with it; names start with {', '.join(starts)}")
    return wanted, [name for name in leaves if name not in wanted]


def _fit(model: Segmenter, name: str, leaf: functional.Leaf, array: np.ndarray, adapt: bool):
    """(array that fits, how it was adapted or ""); (None, reason) if the initial values are kept; (None, "") if it cannot fit."""
    want, got = tuple(leaf.shape), tuple(array.shape)
    if want == got:
        return array.astype(leaf.dtype), ""
    if not adapt or len(want) != len(got):
        return None, ""
    if leaf.layout == "conv" and want[-2] == model.in_channels and want[:-2] + want[-1:] == got[:-2] + got[-1:]:
        total = array.astype(np.float32).sum(-2, keepdims=True) / want[-2]
        return np.broadcast_to(total, want), f"sum of the file's {got[-2]} input channels, divided over {want[-2]}"
    if want[-1] == model.num_classes and want[:-1] == got[:-1]:
        return None, f"{got[-1]} classes in the source, {want[-1]} here"
    return None, ""


def _as_torch(leaf: functional.Leaf) -> list[int]:
    """The shape of a tensor in PyTorch's layout."""
    return list(to_layout(np.broadcast_to(np.float32(0), leaf.shape), leaf).shape)


def _misshaped(name: str, leaf: functional.Leaf, key: str, array: np.ndarray) -> str:
    return f"shape of {key}: expected {_as_torch(leaf)} for {name}, found {list(array.shape)}"


def _message(model, key_mapping: str, problems: list[str], theirs: Mapping, ours: Mapping, names: Mapping[str, str]) -> str:
    """The error text: every difference, and remedies for each kind of difference."""
    remedies, fit = [], [name for name in names.values() if name in ours]
    if not fit and len(problems) >= len(ours):
        remedies.append(
            f"no key mapping fits: the file's names are like {_some(list(theirs), 3)}, the network's like "
            f"{_some(list(ours), 3)}; rename them by keys=[('regular expression', 'replacement'), ...]"
        )
    elif any(p.startswith("shape") for p in problems):
        remedies.append(
            "for another number of input channels or classes: adapt=True; for arrays in jaxseg's own layout: functional.assign"
        )
    unexpected = [key for key, name in names.items() if name not in ours]
    if fit and unexpected:
        remedies.append(
            f"to leave unexpected tensors out: keys=[({re.escape(unexpected[0])!r}, None), ...]; to rename them: "
            "keys=[('regular expression', 'replacement'), ...]"
        )
    complete = sorted({name.partition(".")[0] for name in ours} - {name.partition(".")[0] for name in ours.keys() - set(fit)})
    if fit and complete and len(problems) > len(unexpected):
        remedies.append(f"to load only the part that is complete: only='{complete[0]}.'")
    return (
        f"{len(problems)} differences between the weights (key mapping {key_mapping!r}) and this {type(model).__name__}, shapes "
        "in PyTorch's layout:\n  "
        + "\n  ".join(problems)
        + "".join(f"\n  {remedy}" for remedy in remedies)
        + ("\n  (on the command line: python -m jaxseg.convert --keys, --only)" if remedies else "")
    )


def _some(items, limit: int = 6) -> str:
    return ", ".join(items[:limit]) + (f", ... ({len(items)})" if len(items) > limit else "")
