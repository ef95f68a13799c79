"""Activations by name, and the one that is learnt."""

import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import initial
from jaxseg.types import Array
from jaxseg.utils.lookup import lookup


def activation(name: str):
    """The activation function called `name`: relu, relu6, gelu, gelu_tanh, silu, leaky_relu (slope 0.01), hard_swish, ...

    Raises:
      ConfigError: the name is unknown.
    """
    return lookup("activation", name, ops.ACTS).value


class PReLU(nnx.Module):
    """x where it is positive, else x times a learnt number, one for all channels (He et al. 2015, arXiv 1502.01852)."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(initial.constant(0.25)(rngs, (1,)))

    def __call__(self, x: Array) -> Array:
        return jnp.where(x > 0, x, x * self.weight[...].astype(x.dtype))
