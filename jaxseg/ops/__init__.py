"""Array operations with fast implementations: pure jax functions, one folder each (api, reference implementation, lowerings)."""

from jaxseg.ops.activation.api import gelu, hard_sigmoid, relu6
from jaxseg.ops.activation.table import ACTS, FUSED
from jaxseg.ops.attention.api import attention
from jaxseg.ops.conv.api import conv, conv_transpose, linear
from jaxseg.ops.materialize import materialize
from jaxseg.ops.msca.api import msca
from jaxseg.ops.norm.act import norm_act
from jaxseg.ops.norm.api import moments, normalize, standardize
from jaxseg.ops.norm.layer import layer_norm
from jaxseg.ops.plain import plain_lowerings
from jaxseg.ops.pool.api import adaptive_avg_pool, avg_pool, larger, max_pool, spatial_max
from jaxseg.ops.resize.api import resize
from jaxseg.ops.resize.convolved import convolve_resized

__all__ = [
    "ACTS",
    "FUSED",
    "adaptive_avg_pool",
    "attention",
    "avg_pool",
    "conv",
    "conv_transpose",
    "convolve_resized",
    "gelu",
    "hard_sigmoid",
    "larger",
    "layer_norm",
    "linear",
    "materialize",
    "max_pool",
    "moments",
    "msca",
    "norm_act",
    "plain_lowerings",
    "normalize",
    "relu6",
    "resize",
    "spatial_max",
    "standardize",
]
