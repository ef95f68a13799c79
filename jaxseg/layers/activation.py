"""Activations by name."""

from jaxseg import ops
from jaxseg.utils.lookup import lookup


def activation(name: str):
    """The activation function called `name`: relu, relu6, gelu, gelu_tanh, silu, leaky_relu (slope 0.01), hard_swish, ...

    Raises:
      ConfigError: the name is unknown.
    """
    return lookup("activation", name, ops.ACTS).value
