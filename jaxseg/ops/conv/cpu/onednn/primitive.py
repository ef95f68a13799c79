"""Convolutions by oneDNN as a JAX operation, with the ordinary lowering where oneDNN is not available.

The choice is made when a program is lowered. A program for one CPU device calls the handler of conv.cc. The ordinary lowering is
used for other platforms, for several devices (XLA would gather the arguments of a custom call), for `jax.export` (the exported
program must run without oneDNN), and for shapes for which oneDNN has no machine code.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu.onednn import library
from jaxseg.ops.conv.spec import Spec
from jaxseg.ops.sizes import known
from jaxseg.types import Array

DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
_FEW_CHANNELS = 8  # oneDNN computes whole blocks of channels, which an input's gradient with fewer pays for
_FEW_POSITIONS = 1 / 3  # of the channels: where there are fewer, turning the weights into oneDNN's layout costs too much


def faster(direction: str, spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    """Whether oneDNN was measured to be faster in float32, for x_shape [B, *S, C] and w_shape [*k, C/groups, O]."""
    rank = len(x_shape) - 2
    if rank not in (2, 3) or rank == 3 and spec.groups > 1:
        return False
    if direction == "input_gradient" and x_shape[-1] < _FEW_CHANNELS:
        return False
    if spec.groups > 1 or rank == 3 and direction == "weight_gradient":
        return True
    positions = known(x_shape)[0] * math.prod(spec.output(x_shape[1:-1], w_shape[:rank]))
    return positions >= _FEW_POSITIONS * min(w_shape[-2:])


def wanted(spec: Spec, x: Array, w_shape: Sequence[int]) -> bool:
    """Whether oneDNN is an option for a convolution: wanted, float32, outside `shard_map`, and faster in some direction."""
    return (
        x.dtype == np.float32
        and library.wanted()
        and not jax.sharding.get_abstract_mesh().manual_axes
        and any(faster(direction, spec, x.shape, w_shape) for direction in DIRECTIONS)
    )


def over(ordinary: Callable, direction: str) -> Callable:
    """A lowering of `direction`, with the arguments of that in `reference`: by oneDNN if available, else `ordinary`."""
    return functools.partial(_bind, ordinary, direction)


def _bind(ordinary: Callable, direction: str, spec: Spec, *arguments) -> Array:
    *static, a, b = arguments
    return conv_p.bind(a, b, direction=direction, spec=spec, static=tuple(static), ordinary=ordinary)


def _shapes(direction: str, spec: Spec, static: tuple, a: Sequence[int], b: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The shapes of x, w and y; the direction's arguments a and b are two of them."""
    if direction == "forward":
        return a, b, (a[0], *spec.output(a[1:-1], b[:-2]), b[-1])
    if direction == "input_gradient":
        return (a[0], *static[0], b[-2] * spec.groups), b, a
    return a, (*static[0], a[-1] // spec.groups, b[-1]), b


def _abstract(a, b, *, direction: str, spec: Spec, static: tuple, ordinary: Callable) -> ShapedArray:
    x, w, y = _shapes(direction, spec, static, a.shape, b.shape)
    return ShapedArray({"forward": y, "input_gradient": x, "weight_gradient": w}[direction], a.dtype)


def _lower(context, a, b, *, direction: str, spec: Spec, static: tuple, ordinary: Callable):
    engine = _engine(context.module_context)
    if engine is not None:
        number, shapes = DIRECTIONS.index(direction), _shapes(direction, spec, static, *(v.shape for v in context.avals_in))
        low, high = zip(*spec.padding)
        geometry = np.array([*spec.stride, *spec.dilation, *low, *high, spec.groups], np.int64)
        if _has_code(engine, number, shapes, geometry):
            return jax.ffi.ffi_lowering(engine.target)(context, a, b, direction=np.int64(number), geometry=geometry)
    return _lower_plainly(context, a, b, spec=spec, static=static, ordinary=ordinary)


def _lower_plainly(context, a, b, *, spec: Spec, static: tuple, ordinary: Callable, direction: str = ""):
    return mlir.lower_fun(functools.partial(ordinary, spec, *static), multiple_results=False)(context, a, b)


def _engine(module) -> library.Engine | None:
    """The handler if the program runs in this process on one device, else None."""
    one = getattr(module.axis_context, "num_devices", None) == 1
    return library.load() if one and not module.lowering_parameters.for_export else None


def _has_code(engine: library.Engine, direction: int, shapes: Sequence[Sequence[int]], geometry: np.ndarray) -> bool:
    ints = lambda values: (ctypes.c_int64 * len(values))(*map(int, values))
    threads = len(os.sched_getaffinity(0))
    return engine.pieces(direction, len(shapes[0]) - 2, *map(ints, (*shapes, geometry)), threads) > 0


def _batch(arrays, axes, *, direction: str, spec: Spec, static: tuple, ordinary: Callable):
    (a, b), (i, j) = arrays, axes
    if direction == "weight_gradient" or j is not None:  # as many convolutions as the mapped axis is long
        return jax.vmap(functools.partial(ordinary, spec, *static), axes)(a, b), 0
    a = jnp.moveaxis(a, i, 0)
    found = _bind(ordinary, direction, spec, *static, a.reshape(-1, *a.shape[2:]), b)
    return found.reshape(*a.shape[:2], *found.shape[1:]), 0


def _eagerly(a, b, **options) -> Array:
    with jax.disable_jit(False):  # as a program of its own even within `jax.disable_jit()`
        return jax.jit(functools.partial(conv_p.bind, **options))(a, b)


def _again(direction: str, spec: Spec, *arguments) -> Array:
    return _bind(getattr(reference, direction), direction, spec, *arguments)


def _gradient_of_first(g, a, b, *, direction: str, spec: Spec, static: tuple, ordinary: Callable):
    if direction == "input_gradient":  # a is a gradient of y, g one of x
        return _again("forward", spec, g, b)
    arrays = (g, b) if direction == "forward" else (b, g)
    return _again("input_gradient", spec, a.aval.shape[1:-1], *arrays)


def _gradient_of_second(g, a, b, *, direction: str, spec: Spec, static: tuple, ordinary: Callable):
    if direction == "weight_gradient":  # b is a gradient of y, g one of w
        return _again("forward", spec, a, g)
    arrays = (a, g) if direction == "forward" else (g, a)
    return _again("weight_gradient", spec, b.aval.shape[:-2], *arrays)


conv_p = Primitive("onednn_conv")
conv_p.def_abstract_eval(_abstract)
conv_p.def_impl(_eagerly)
ad.defbilinear(conv_p, _gradient_of_first, _gradient_of_second)
batching.primitive_batchers[conv_p] = _batch
mlir.register_lowering(conv_p, _lower, platform="cpu")
mlir.register_lowering(conv_p, _lower_plainly)
