"""The base class of all networks, and the types with which a network family declares itself.

A family is one file in this folder: docstring with its source, a frozen Config, blocks, the network (a `Segmenter`),
`VARIANTS` (name -> Variant) and `KEY_MAPPINGS` (the tensor names of other implementations). `registry.py` lists the families.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.layers import EVAL, ForwardContext
from jaxseg.models import inference
from jaxseg.types import Array


class Outputs(NamedTuple):
    """The results of a forward pass.

    Attributes:
      logits: float32 [B, *spatial, K] at the input's resolution, before sigmoid or softmax.
      aux: logits of auxiliary heads or deep supervision, float32 [B, *s, K] each, in the order that the network's
        docstring states; empty in inference.
    """

    logits: Array
    aux: tuple[Array, ...] = ()


class KeyMapping(NamedTuple):
    """Maps the tensor names of another implementation's state dict to jaxseg's names.

    Attributes:
      name: the implementation ("official", "transformers").
      rules: (regular expression, replacement) applied in order to every key of the state dict. Results "name#0", "name#1", ...
        are the parts of one tensor, in this order along axis 0 (PyTorch's output axis): for instance keys and values of an
        attention, which are separate there and one tensor here.
      ignored: regular expressions of keys that jaxseg does not need, and that are dropped.
    """

    name: str
    rules: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


class Variant(NamedTuple):
    """A named network: its class, its configuration, and its default numbers of channels, classes and spatial axes."""

    network: type
    config: Any
    in_channels: int = 3
    num_classes: int = 1
    ranks: tuple[int, ...] = (2,)


class Segmenter(nnx.Module):
    """Base class of all networks: checks the input, runs `forward`, returns float32 logits at the input's resolution.

    A subclass sets `in_channels`, `num_classes` and `rank`, may set `size_multiple` and `min_size`, and defines
    `forward(image, context) -> Outputs`.
    """

    in_channels: int
    num_classes: int
    rank: int = 2
    size_multiple: int = 1  # every spatial size must be divisible by this
    min_size: int = 1

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        """Compute the logits of one batch; every network defines this."""
        raise TypeError(f"{type(self).__name__} does not define forward(image, context)")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError with a possible size if the network cannot process an image of this shape [B, *spatial, C]."""
        if len(shape) != self.rank + 2 or shape[-1] != self.in_channels:
            axes = ", ".join("DHW"[-self.rank :])
            raise ValueError(f"got an image of shape {tuple(shape)}; {type(self).__name__} needs [B, {axes}, {self.in_channels}]")
        if shape[0] == 0:
            raise ValueError(f"got an image of shape {tuple(shape)}; a batch must have at least one image")
        m = self.size_multiple
        bad = [n for n in shape[1:-1] if n % m or n < self.min_size]
        if bad:
            do = [max(math.ceil(n / m) * m, math.ceil(self.min_size / m) * m) for n in shape[1:-1]]
            rule = f"divisible by {m}" + (f" and at least {self.min_size}" if self.min_size > 1 else "")
            raise ValueError(
                f"got an image of spatial size {tuple(shape[1:-1])}; {type(self).__name__} needs sizes {rule}: "
                f"pad or resize to {tuple(do)}"
            )

    def outputs(self, image: Array, context: ForwardContext = EVAL) -> Outputs:
        """Forward pass with auxiliary outputs, after a check of the input; logits are float32 for every compute dtype."""
        self.check(image.shape)
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(f"got an image of dtype {image.dtype}; must be a float dtype: convert it first (uint8: image / 255)")
        logits, aux = self.forward(image, context)
        float32 = lambda a: a.astype(jnp.float32)
        return Outputs(float32(logits), tuple(map(float32, aux)) if context.train else ())

    def __call__(self, image: Array, context: ForwardContext = EVAL) -> Array | Outputs:
        """Inference: image [B, *spatial, C] -> logits float32 [B, *spatial, K], compiled once per shape.

        With `ForwardContext(train=True, key=...)` it is not compiled (use it inside your own jit) and returns `Outputs`.
        """
        if context.train:
            return self.outputs(image, context)
        if isinstance(image, jax.core.Tracer):
            return self.outputs(image, context).logits
        self.check(image.shape)
        image = image if isinstance(image, (np.ndarray, jax.Array)) else jnp.asarray(image)
        return inference.infer(self, image, context.key).logits
