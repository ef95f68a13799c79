"""Initial values of parameters, drawn by numpy on the host.

A network has hundreds of tensors of dozens of shapes, and jax.random would compile a program for each shape. numpy draws them
quickly and with the same result on every platform, with a seed from the module's nnx key. While tracing (eval_shape, jit), the
same distribution is drawn by jax.random instead.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Initializer = Callable[[nnx.Rngs, tuple[int, ...]], jax.Array]
_shapes_only: contextvars.ContextVar[bool] = contextvars.ContextVar("jaxseg_shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Make initializers return zeros within the block: for eval_shape, which needs only shapes (tracing random draws is slow)."""
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def _draw(rngs: nnx.Rngs, shape, host, traced) -> jax.Array:
    if _shapes_only.get():
        return jnp.zeros(shape, jnp.float32)
    stream = rngs.params
    key, count = stream.key.get_value(), stream.count.get_value()
    if isinstance(key, jax.core.Tracer) or isinstance(count, jax.core.Tracer):
        return traced(stream(), shape)
    if jax.random.key_impl(key) == "threefry2x32":
        seed = fold_in(np.asarray(jax.random.key_data(key)), int(count))
        stream.count.set_value(jax.device_put(np.uint32(int(count) + 1)))
    else:
        seed = np.asarray(jax.random.key_data(stream())).tolist()
    # jnp.asarray would compile a program for each shape
    return jax.device_put(host(np.random.default_rng(seed), shape).astype(jnp.float32))


def fold_in(key: np.ndarray, number: int) -> list[int]:
    """Return the two words of `jax.random.fold_in(key, number)` for a threefry2x32 key of two words.

    A network has hundreds of parameters, and dispatching hundreds of folds takes seconds. Source: Salmon et al. 2011, Parallel
    random numbers: as easy as 1, 2, 3.
    """
    mask, keys = 2**32 - 1, [int(word) for word in key]
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    x, y = keys[0], (number + keys[1]) & mask
    for round_ in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[round_ % 8]
        x = (x + y) & mask
        y = x ^ ((y << turn | y >> 32 - turn) & mask)
        if round_ % 4 == 3:
            step = round_ // 4 + 1
            x, y = (x + keys[step % 3]) & mask, (y + keys[(step + 1) % 3] + step) & mask
    return [x, y]


def normal(std: float) -> Initializer:
    """Normal distribution with mean 0 and the given standard deviation."""
    return lambda rngs, shape: _draw(rngs, shape, lambda g, s: g.normal(0.0, std, s), lambda k, s: std * jax.random.normal(k, s))


def uniform(bound: float, low: float | None = None) -> Initializer:
    """Uniform distribution on [-bound, bound], or on [low, bound]."""
    lo = -bound if low is None else low
    return lambda rngs, shape: _draw(
        rngs, shape, lambda g, s: g.uniform(lo, bound, s), lambda k, s: jax.random.uniform(k, s, minval=lo, maxval=bound)
    )


def truncated_normal(std: float) -> Initializer:
    """Normal distribution, truncated at two standard deviations by redrawing (the result has slightly less than `std`)."""

    def host(g, shape):
        values = g.normal(0.0, 1.0, shape)
        while (far := np.abs(values) > 2).any():
            values[far] = g.normal(0.0, 1.0, int(far.sum()))
        return std * values

    return lambda rngs, shape: _draw(rngs, shape, host, lambda k, s: std * jax.random.truncated_normal(k, -2.0, 2.0, s))


def constant(value: float) -> Initializer:
    """All entries equal `value`."""
    return lambda rngs, shape: jax.device_put(np.full(shape, value, jnp.float32))


zeros, ones = constant(0.0), constant(1.0)


def torch_default(fan_in: int) -> Initializer:
    """PyTorch's default for weights and biases of Conv and Linear: uniform on +-1/sqrt(fan_in)."""
    return uniform(1.0 / math.sqrt(max(fan_in, 1)))


def fan_out_normal(kernel: tuple[int, ...], out: int, groups: int = 1) -> Initializer:
    """Normal with std sqrt(2 / fan_out), fan_out = prod(kernel) * out / groups (SegFormer's and SegNeXt's convolutions)."""
    return normal(math.sqrt(2.0 / (math.prod(kernel) * out // groups)))
