"""Activations by name. `gelu` is the exact one (erf), as in PyTorch; flax's default is the tanh approximation."""

import functools

import jax

from jaxseg import ops
from jaxseg.utils.lookup import lookup

_TABLE = {
    "relu": jax.nn.relu,
    "relu6": ops.relu6,
    "gelu": ops.gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.01),
    "hard_swish": lambda x: x * ops.hard_sigmoid(x),
    "hard_sigmoid": ops.hard_sigmoid,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def activation(name: str):
    """The function named `name`: relu, relu6, gelu, gelu_tanh, silu, leaky_relu (slope 0.01), hard_swish, ...

    Raises:
      ConfigError: unknown name.
    """
    return lookup("activation", name, _TABLE)
