"""SegNeXt's multi-scale convolutional attention (Guo et al. 2022, arXiv 2209.08575, equation 1): one function of arrays.

gate = mix(local(x) + sum over pairs of column(row(s))), result = gate * x, with s = local(x), or x itself in
the haemorrhage project's variant;
local is a depthwise 5x5, a pair a depthwise 1 x k and k x 1, mix a 1x1 over channels; all with bias.

On a GPU every strip is a kernel of `ops.conv.gpu`. Kernels for both strips of a pair were tried: relative to separate kernels the
pairs of 7 and 11 took 0.70 of the time, the pair of 21 1.65, all three 1.13, and compilation took four to thirteen seconds more
per shape (NVIDIA H200, bfloat16, 8 x 128^2 x 64, jax 0.11.2, 2026-11-27).
"""

from collections.abc import Sequence

from jaxseg.ops import tally
from jaxseg.ops.conv import api
from jaxseg.ops.materialize import materialize
from jaxseg.ops.msca import reference
from jaxseg.ops.msca.reference import Layer
from jaxseg.types import Array


def msca(x: Array, local: Layer, strips: Sequence[tuple[Layer, Layer]], mix: Layer, *, from_input: bool) -> Array:
    """The attention of x [B, H, W, C], in x's dtype.

    Args:
      local: weights [5, 5, 1, C] (any odd size) and bias [C].
      strips: pairs of weights [1, k, 1, C] and [k, 1, 1, C] with biases [C], k odd.
      mix: weights [1, 1, C, C] and bias [C].
      from_input: the strips' input is x (the haemorrhage project) instead of the output of `local` (the paper).
    """
    near = reference.depthwise(materialize(x), local)
    total = reference.strip_sums(x if from_input else near, near, strips)
    tally.add("mul", x.size)
    return (api.conv(total, mix[0]) + mix[1].astype(x.dtype)) * x
