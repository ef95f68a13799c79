"""Activations by name: their functions, and gradients for those that can be fused with the norm before them.

`gelu` is exact (erf), as in PyTorch; flax's default is the tanh approximation. leaky_relu has the slope 0.01,
leaky_relu_0.1 the slope 0.1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops.activation.api import gelu, hard_sigmoid, relu6
from jaxseg.types import Array


class Act(NamedTuple):
    """An activation f(z) and its gradient (z, gradient of f(z)) -> gradient of z (None: it is not fused with a norm)."""

    value: Callable[[Array], Array]
    pull: Callable[[Array, Array], Array] | None = None


def _silu_pull(z: Array, g: Array) -> Array:
    s = lax.logistic(z)
    return g * (s * (1 + z * (1 - s)))


ACTS = {
    "identity": Act(lambda z: z, lambda z, g: g),
    "relu": Act(jax.nn.relu, lambda z, g: jnp.where(z > 0, g, 0.0)),
    "relu6": Act(relu6, lambda z, g: jnp.where((z > 0) & (z < 6), g, 0.0)),
    "leaky_relu": Act(lambda z: jnp.where(z >= 0, z, 0.01 * z), lambda z, g: jnp.where(z >= 0, g, 0.01 * g)),
    "leaky_relu_0.1": Act(lambda z: jnp.where(z >= 0, z, 0.1 * z), lambda z, g: jnp.where(z >= 0, g, 0.1 * g)),
    "silu": Act(lambda z: z * lax.logistic(z), _silu_pull),
    "gelu": Act(gelu, lambda z, g: jax.jvp(gelu, (z,), (g,))[1]),
    "gelu_tanh": Act(functools.partial(jax.nn.gelu, approximate=True)),
    "hard_swish": Act(lambda z: z * hard_sigmoid(z)),
    "hard_sigmoid": Act(hard_sigmoid),
    "sigmoid": Act(jax.nn.sigmoid),
}
FUSED = tuple(name for name, act in ACTS.items() if act.pull is not None)
