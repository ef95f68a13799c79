"""Fast white noise for whole images: the number at a position is a hash of (key, position).

jax.random's threefry needs about a hundred operations per number and passes over memory many times on a CPU: 27 ms for the noise
of a patch of 4 x 96^3 on two cores, against 3.5 ms here. Keys still come from jax.random; only the many numbers of one key over
a whole image are computed here:

    bits(key, i) = mix(mix(i ^ k0) ^ k1)

where k0 and k1 are two words drawn from the key, and `mix` is a bijection of 32-bit words in which each input bit flips each
output bit with a probability of nearly 1/2. The hash is elementwise, so that XLA fuses it with the operation that uses the noise,
for any sharding. It is not cryptographic; the words of one key do not repeat within 2^32 positions.

Source of `mix`: "lowbias32" of Wellons, nullprogram.com/blog/2018/07/31. The polynomials for the normal distribution were fitted
for this file; they are evaluated by Estrin's scheme, because a CPU loses its time on chains of dependent products.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array

# lowest power first
_LOG = (1.44270539, -0.721379882, 0.479251189, -0.358389032, 0.326725717, -0.279996194)  # log2(1 + y) / y, |y| < 1/3, to 1e-5
_QUANTILE = (
    0.860824584,
    0.0772420729,
    -0.579964835,
    0.484523039,
    -0.221015066,
    0.0633140964,
    -0.0116607172,
    0.00134100679,
    -8.76288743e-05,
    2.48260363e-06,
)  # z / s^2 with P(|Z| > z) = 2^(-s^2), s < 5.66: z to 5e-4, the distribution to 3e-5


@functools.partial(jax.jit, static_argnames="shape")
def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Float32 numbers of the uniform distribution on (-1, 1), symmetric about 0: odd multiples of 2^-24."""
    signed = lax.bitcast_convert_type(_bits(key, shape), jnp.int32) >> 8
    return (signed.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


@functools.partial(jax.jit, static_argnames="shape")
def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Float32 numbers of the standard normal distribution, up to 6.4: one random bit is the sign, 31 are P(|Z| > z)."""
    bits = _bits(key, shape)
    beyond = lax.bitcast_convert_type(bits >> 1, jnp.int32).astype(jnp.float32) + 0.5  # in 0..2^31
    pattern = lax.bitcast_convert_type(beyond, jnp.int32)
    power = (pattern - 0x3F2AAAAB) >> 23  # beyond = 2^power (1 + y), -1/3 < y < 1/3
    y = lax.bitcast_convert_type(pattern - (power << 23), jnp.float32) - 1
    halvings = (31 - power).astype(jnp.float32) - y * _polynomial(_LOG, y)  # -log2(beyond / 2^31), 0..32
    z = halvings * _polynomial(_QUANTILE, jnp.sqrt(halvings))
    return lax.bitcast_convert_type(lax.bitcast_convert_type(z, jnp.uint32) | (bits << 31), jnp.float32)


def _bits(key: Array, shape: tuple[int, ...]) -> Array:
    """A random uint32 for every position of `shape`."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _mix(_mix(index ^ first) ^ second)


def _mix(h: Array) -> Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    terms: list = list(coefficients)
    while len(terms) > 1:
        pairs = [low + high * x for low, high in zip(terms[::2], terms[1::2])]
        terms, x = pairs + terms[len(pairs) * 2 :], x * x
    return terms[0]
