"""Parameters and multiply-accumulates of a network, counted from shapes: no values, no compilation, no memory.

    print(summarize("segnext_t_ich", (1, 640, 640, 1)))

Two figures, because both are in use. `macs`: multiply-accumulates of convolutions, transposed convolutions, linear layers
and matrix products of one inference pass (1 MAC = 2 FLOP). `macs_printed`: what torchprofile 0.0.4 prints for a PyTorch
model left in training mode: the same, and 1 per element of every affine norm, elementwise product (layer scale, drop
path, gates) and mean, 4 per output of a linear resize, and every tap of a transposed convolution whether it meets
a number or a zero. Papers that say "GFLOPs" often mean one of the two.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.layers import ForwardContext
from jaxseg.models import functional
from jaxseg.models.base import Segmenter
from jaxseg.models.registry import create_model
from jaxseg.ops import tally

TRUE_KINDS = ("conv", "conv_transpose", "linear", "matmul")


class Part(NamedTuple):
    """A top-level module: its name, trainable numbers, numbers of its state (running statistics, bases)."""

    name: str
    params: int
    state: int


class Summary(NamedTuple):
    """What a network costs.

    Attributes:
      name: of the network.
      image_shape: [B, *S, C] that the MACs are for.
      output_shape: [B, *S, K] of the logits.
      params, state: trainable numbers, and the others.
      macs: true multiply-accumulates of one inference pass.
      macs_printed: torchprofile's figure, training mode.
      counts: kind -> amount of the inference pass, as `ops.tally` names them.
      parts: by top-level module, in the order of their names.
    """

    name: str
    image_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    state: int
    macs: int
    macs_printed: int
    counts: dict[str, int]
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        width = max(12, *(len(p.name) for p in self.parts))
        lines = [
            f"{self.name}: {list(self.image_shape)} -> {list(self.output_shape)}",
            f"  {'module':{width}s} {'parameters':>14s} {'share':>7s} {'state':>10s}",
        ]
        lines += [f"  {p.name:{width}s} {p.params:14,d} {p.params / max(self.params, 1):7.1%} {p.state:10,d}" for p in self.parts]
        lines += [
            f"  {'total':{width}s} {self.params:14,d} {'':7s} {self.state:10,d}",
            f"  {self.macs / 1e9:.4f} GMAC (conv, transposed conv, linear, matmul; inference)",
            f"  {self.macs_printed / 1e9:.4f} G as torchprofile prints it (training mode; norms, products, resizes "
            "and all taps of transposed convolutions added)",
        ]
        return "\n".join(lines)


def parameters(model: Segmenter) -> int:
    """Trainable numbers of a network; its values are not used."""
    return sum(math.prod(p.shape) for p in functional.split(model)[1].values())


def summarize(model: str | Segmenter, image_shape: Sequence[int], **options) -> Summary:
    """Count a network for images of one shape.

    Args:
      model: a registry name, or a network (its values are not used).
      image_shape: [B, *S, C].
      **options: of `create_model`, when `model` is a name; in_channels is the shape's last number.
    Raises:
      ConfigError: unknown name or option.
      ValueError: a shape that the network cannot take.
    """
    name = model if isinstance(model, str) else type(model).__name__
    shape = tuple(int(n) for n in image_shape)
    if isinstance(model, str):
        if len(shape) > 4:
            options.setdefault("rank", len(shape) - 2)
        model = create_model(model, **{"in_channels": shape[-1], **options}, abstract=True)
    network, params, state = functional.split(model)
    spec = lambda tree: {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in tree.items()}
    output, counts = _count(network, spec(params), spec(state), shape, train=False)
    _, train_counts = _count(network, spec(params), spec(state), shape, train=True)
    parts: dict[str, Counter] = {}
    for kind, tree in (("params", params), ("state", state)):
        for n, v in tree.items():
            parts.setdefault(n.partition(".")[0], Counter())[kind] += math.prod(v.shape)
    rows = tuple(Part(n, parts[n]["params"], parts[n]["state"]) for n in sorted(parts))
    return Summary(
        name,
        shape,
        tuple(output.shape),
        sum(p.params for p in rows),
        sum(p.state for p in rows),
        sum(counts[k] for k in TRUE_KINDS),
        sum(train_counts.values()),
        dict(counts),
        rows,
    )


def _count(network: functional.Network, params, state, shape, *, train: bool):
    """(logits' shape and dtype, tally) of one pass, traced with shapes alone."""

    def forward(params, state, image):
        context = ForwardContext(train=True, key=jax.random.key(0)) if train else ForwardContext()
        return network.apply(params, state, image, context)[0].logits

    with tally.counting() as counts:
        output = jax.eval_shape(forward, params, state, jax.ShapeDtypeStruct(shape, jnp.float32))
    return output, counts
