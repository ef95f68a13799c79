"""Leaves of a train state: their names, shapes and dtypes; copies to the host and back to the devices; digests.

A leaf is a jax.Array (sharded or replicated over a mesh, a typed PRNG key too), a numpy array or a Python number. Its
name is its path joined by "/": "params/encoder.stages.0.weight". On the host every leaf is a numpy array.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.types import MismatchError
from jaxseg.utils.trees import differences

_KEY_IMPLEMENTATIONS = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}  # tag in the dtype -> name
_NUMBERS = {"python bool": bool, "python int": int, "python float": float}


class LeafSpec(NamedTuple):
    """The shape and dtype of a leaf.

    Attributes:
      shape: shape of the host copy; for an array of random keys, the key's words are the last axis.
      dtype: "float32", "bfloat16", "key<fry>" for a typed random key, "python int" for a Python number.
    """

    shape: tuple[int, ...]
    dtype: str


def named(tree) -> tuple[dict[str, Any], Any]:
    """Return ({name: leaf}, treedef) of a pytree, in the tree's order.

    Raises:
      ValueError: two leaves have the same name, because a dictionary key contains "/".
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves: dict[str, Any] = {}
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise ValueError(f"two leaves of the tree have the name {name!r}; dictionary keys must not contain '/'")
        leaves[name] = leaf
    return leaves, treedef


def spec(name: str, leaf) -> LeafSpec:
    """Return the shape and dtype of a leaf, which may also be a jax.ShapeDtypeStruct.

    Raises:
      ValueError: the leaf is neither an array nor a number.
    """
    for word, kind in _NUMBERS.items():
        if type(leaf) is kind:
            return LeafSpec((), word)
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape") or leaf.dtype == object:
        raise ValueError(f"leaf {name!r} is a {type(leaf).__name__}; must be an array or a number: put anything else into info")
    if _is_key(leaf):
        return LeafSpec(jax.eval_shape(jax.random.key_data, leaf).shape, str(leaf.dtype))
    return LeafSpec(tuple(leaf.shape), np.dtype(leaf.dtype).name)


def compare(expected: Mapping[str, LeafSpec], found: Mapping[str, LeafSpec], what: str) -> None:
    """Raise a MismatchError that lists up to 20 leaves whose name, shape or dtype differ.

    Args:
      expected: leaves of the train state to fill.
      found: leaves in the checkpoint.
      what: a name for the checkpoint, for the message.
    """
    lines = differences(expected, found)
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  ... {len(lines) - 20} more" if len(lines) > 20 else "")
        raise MismatchError(
            f"{what} does not fit this train state: {len(lines)} leaves differ; use the configuration that wrote it, or another "
            f"--workdir:\n  {shown}"
        )


def to_host(tree: Mapping[str, Any], *, keep: bool = True) -> dict[str, np.ndarray]:
    """Copy the leaves to the host, where later steps cannot change them. Waits until the devices have computed them.

    Arrays sharded over several processes are gathered, so every process has to call this.

    Args:
      tree: name -> leaf.
      keep: False on processes that need no copy: they only take part in the gathering, and get {}.
    """
    data = {n: jax.random.key_data(l) if isinstance(l, jax.Array) and _is_key(l) else l for n, l in tree.items()}
    if keep:
        for leaf in data.values():
            if isinstance(leaf, jax.Array) and not _is_scattered(leaf):
                leaf.copy_to_host_async()
    host = {}
    for name, leaf in data.items():
        if isinstance(leaf, jax.Array) and _is_scattered(leaf):
            value = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        elif keep:
            value = np.asarray(leaf)
            on_cpu = isinstance(leaf, jax.Array) and all(d.platform == "cpu" for d in leaf.devices())
            if on_cpu or not isinstance(leaf, jax.Array):
                value = value.copy()  # np.asarray of a CPU array is a view of the device's buffer
            value = np.asarray(value, dtype=value.dtype.newbyteorder("="))
        else:
            continue
        if keep:
            host[name] = value
    return host


def place(name: str, host: np.ndarray, target):
    """Convert a host copy to the type of leaf that `target` is, on target's devices with target's sharding.

    Args:
      name: name of the leaf, for messages.
      host: the whole leaf.
      target: jax.Array, jax.ShapeDtypeStruct (with or without a sharding), numpy array or Python number.
    """
    if isinstance(target, (bool, int, float)):
        return type(target)(host.item())
    if isinstance(target, np.generic):
        return host[()]
    if isinstance(target, np.ndarray):
        return host
    sharding = target.sharding if getattr(target, "committed", True) else None  # a fresh jnp array may go anywhere
    if getattr(target, "weak_type", False) and host.ndim == 0:
        weak = jnp.asarray(host.item())  # weakly typed: x * leaf must promote as it did before the restart
        placed = weak if sharding is None else jax.device_put(weak, sharding)
    elif sharding is None:
        placed = jnp.asarray(host)
    else:
        placed = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    if _is_key(target):
        return jax.random.wrap_key_data(placed, impl=_KEY_IMPLEMENTATIONS[str(target.dtype)[4:-1]])
    if placed.dtype != target.dtype:
        raise MismatchError(
            f"leaf {name} is {target.dtype} in the checkpoint, but JAX converts it to {placed.dtype}; "
            "set JAX_ENABLE_X64=1, or keep this leaf as a numpy array"
        )
    return placed


def digest(host: np.ndarray, leaf: LeafSpec) -> str:
    """Return the hexadecimal blake2b-128 over the dtype, the shape and the bytes of a leaf."""
    h = hashlib.blake2b(f"{leaf.dtype}{list(leaf.shape)}".encode(), digest_size=16)
    h.update(np.ascontiguousarray(host).reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def storage_dtype(leaf: LeafSpec) -> np.dtype:
    """Return the numpy dtype of the leaf's host copy."""
    if leaf.dtype.startswith("key<"):
        return np.dtype(np.uint32)
    return np.dtype({"python bool": "bool", "python int": "int64", "python float": "float64"}.get(leaf.dtype, leaf.dtype))


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_scattered(leaf: jax.Array) -> bool:
    """Return whether no single process holds the whole array."""
    return not (leaf.is_fully_addressable or leaf.is_fully_replicated)
