"""Every public op can be lowered for CUDA on a host that has none, and takes XLA's own path there."""

import jax
import jax.numpy as jnp
import pytest

from jaxseg import ops

F32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
OPS = {
    "conv": (lambda x, w: ops.conv(x, w), F32(1, 6, 6, 4), F32(3, 3, 4, 4)),
    "conv 3-D": (lambda x, w: ops.conv(x, w), F32(1, 6, 6, 6, 4), F32(3, 3, 3, 4, 4)),
    "depthwise": (lambda x, w: ops.conv(x, w, groups=4), F32(1, 6, 6, 4), F32(5, 5, 1, 4)),
    "1x1": (lambda x, w: ops.conv(x, w), F32(1, 6, 6, 4), F32(1, 1, 4, 3)),
    "transposed": (lambda x, w: ops.conv_transpose(x, w), F32(1, 3, 3, 4), F32(2, 2, 4, 3)),
    "linear": (ops.linear, F32(5, 4), F32(4, 3)),
    "resize": (lambda x: ops.resize(x, (5, 7)), F32(1, 3, 4, 2)),
    "max_pool": (lambda x: ops.max_pool(x, 3, stride=2, padding=1), F32(1, 6, 6, 2)),
    "avg_pool": (ops.avg_pool, F32(1, 6, 6, 2)),
    "adaptive_avg_pool": (lambda x: ops.adaptive_avg_pool(x, 3), F32(1, 7, 7, 2)),
    "moments": (lambda x: ops.normalize(x, *ops.moments(x, (1, 2)), None, None, 1e-5), F32(1, 6, 6, 2)),
    "gelu": (ops.gelu, F32(3, 4)),
}


@pytest.mark.parametrize("name", OPS)
def test_value_and_gradient_lower_for_cuda(name):
    op, *arguments = OPS[name]
    gradient = jax.grad(lambda *a: op(*a).sum(), tuple(range(len(arguments))))
    exported = jax.export.export(jax.jit(gradient), platforms=["cuda"])(*arguments)
    if name in ("conv", "conv 3-D", "depthwise"):  # XLA's convolution, for cuDNN; the CPU's loops are not there
        text = exported.mlir_module()
        assert text.count("stablehlo.convolution") == 2 and "stablehlo.while" not in text
