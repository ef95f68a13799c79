"""Count the parameters and multiply-accumulates of a network from shapes alone, without values, compilation or memory.

    print(summarize("segnext_t_ich", (1, 640, 640, 1)))

Two figures are given, because both are in use. `macs` are the multiply-accumulates of convolutions, transposed convolutions,
linear layers and matrix products in one inference pass (1 MAC = 2 FLOP). `macs_printed` is the figure that torchprofile 0.0.4
prints for a PyTorch model in training mode: it adds 1 per element of every affine norm, elementwise product (layer scale, drop
path, gates) and mean, 4 per output of a linear resize, and also counts the products of transposed convolutions with zeros.
Papers that say "GFLOPs" often mean one of the two.
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
    """A top-level module: its name, its number of trainable parameters, and the size of its state (running statistics, bases)."""

    name: str
    params: int
    state: int


class Summary(NamedTuple):
    """The size and computational cost of a network.

    Attributes:
      name: name of the network.
      image_shape: [B, *S, C] of the input to which the MACs refer.
      output_shape: [B, *S, K] of the logits.
      params, state: number of trainable parameters, and of other numbers.
      macs: actual multiply-accumulates of one inference pass.
      macs_printed: torchprofile's figure for training mode.
      counts: {kind of operation: number} in one inference pass, with the names of `ops.tally`.
      parts: the top-level modules, sorted by name.
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
            f"  {self.macs_printed / 1e9:.4f} GMAC as torchprofile counts (training mode; with norms, products, resizes "
            "and all taps of transposed convolutions)",
        ]
        return "\n".join(lines)


def parameters(model: Segmenter) -> int:
    """Number of trainable parameters of a network, which may be abstract."""
    return sum(math.prod(p.shape) for p in functional.split(model)[1].values())


def summarize(model: str | Segmenter, image_shape: Sequence[int], **options) -> Summary:
    """Count a network for images of one shape.

    Args:
      model: the name of a network, or a network (which may be abstract).
      image_shape: [B, *S, C].
      **options: arguments for `create_model` if `model` is a name; in_channels is taken from image_shape.
    Raises:
      ConfigError: an unknown name or option.
      ValueError: the network cannot process images of this shape.
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


def kept_for_backward(model: str | Segmenter, image_shape: Sequence[int]) -> int:
    """Count the bytes that a training step keeps from its forward pass for its backward pass, float32, traced for this platform.

    This is the part of a step's memory that grows with the batch and the image. XLA shares and recomputes some of it, and adds
    what the largest operation works with: `jaxseg zoo --measure` compiles a step and gives XLA's figure.

    Args:
      model: the name of a network, or a network (which may be abstract).
      image_shape: [B, *S, C].
    Raises:
      ValueError: the network cannot process images of this shape.
    """
    if isinstance(model, str):
        model = create_model(model, in_channels=int(image_shape[-1]), abstract=True)
    network, params, state = functional.split(model)
    spec = lambda tree: {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in tree.items()}

    def residuals(params, state, image):
        context = ForwardContext(train=True, key=jax.random.key(0))
        return jax.vjp(lambda p: network.apply(p, state, image, context)[0].logits, params)[1]

    traced = jax.make_jaxpr(residuals)(spec(params), spec(state), jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)).jaxpr
    given = set(map(id, traced.invars))
    kept = {id(v): v.aval for v in traced.outvars if id(v) not in given}
    return sum(a.size * a.dtype.itemsize for a in kept.values())


def _count(network: functional.Network, params, state, shape, *, train: bool):
    """(shape and dtype of the logits, tally) of one pass, which is traced with shapes alone."""

    def forward(params, state, image):
        context = ForwardContext(train=True, key=jax.random.key(0)) if train else ForwardContext()
        return network.apply(params, state, image, context)[0].logits

    with tally.counting() as counts:
        output = jax.eval_shape(forward, params, state, jax.ShapeDtypeStruct(shape, jnp.float32))
    return output, counts
