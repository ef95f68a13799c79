"""SegNeXt's multi-scale convolutional attention (Guo et al. 2022, arXiv 2209.08575, equation 1): one function of arrays.

gate = mix(local(x) + sum over pairs of column(row(s))), result = gate * x, with s = local(x), or x itself in the seed's variant;
local is a depthwise 5x5, a pair a depthwise 1 x k and k x 1, mix a 1x1 over channels; all with bias.

Passes over memory, in reads and writes of one [B, H, W, C]: operation by operation 24 (5x5 2, six strips 12, sum 5, 1x1 2,
gate 3). On a GPU a kernel takes both strips of a pair at once and adds into the running sum, the pairs of 7 and 11
together: 5x5 2, two such kernels 6, 1x1 and gate 5: 13.
"""

from collections.abc import Sequence

import jax
from jax import lax

from jaxseg.ops import tally
from jaxseg.ops.conv import api
from jaxseg.ops.conv.gpu import choose as gpu_choose
from jaxseg.ops.conv.gpu import table as gpu_table
from jaxseg.ops.msca import reference
from jaxseg.ops.msca.reference import Layer
from jaxseg.ops.stored import stored
from jaxseg.types import Array


def msca(x: Array, local: Layer, strips: Sequence[tuple[Layer, Layer]], mix: Layer, *, from_input: bool) -> Array:
    """The attention of x [B, H, W, C], in x's dtype.

    Args:
      local: weights [5, 5, 1, C] (any odd size) and bias [C].
      strips: pairs of weights [1, k, 1, C] and [k, 1, 1, C] with biases [C], k odd.
      mix: weights [1, 1, C, C] and bias [C].
      from_input: the strips read x (seed) instead of the local branch's output (paper).
    """
    near = reference.depthwise(stored(x), local)
    total = _strip_sums(x if from_input else near, near, strips)
    tally.add("mul", x.size)
    return (api.conv(total, mix[0]) + mix[1].astype(x.dtype)) * x


def _strip_sums(source: Array, total: Array, strips: Sequence[tuple[Layer, Layer]]) -> Array:
    mode = gpu_choose.mode()
    if mode == "xla" or (mode == "auto" and source.size < gpu_table.SMALLEST):
        return reference.strip_sums(source, total, strips)
    from jaxseg.ops.msca import gpu  # imports Pallas, which only a GPU needs
    if not gpu.fits(source.shape, strips):
        return reference.strip_sums(source, total, strips)
    leaves, tree = jax.tree.flatten(tuple(strips))

    def flat(function):
        return lambda source, total, *leaves: function(source, total, jax.tree.unflatten(tree, leaves))

    return lax.platform_dependent(source, total, *leaves, cuda=flat(gpu.strip_sums), default=flat(reference.strip_sums))
