"""Laws of the GPU kernels that a CPU can check: in interpret mode each equals its plain twin, and each lowers for CUDA."""

import functools
import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.ops.conv import gpu, gpu_choose, gpu_table, reference, table
from jaxseg.types import ConfigError


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases, cuda_export = _beside("conv_cases"), _beside("cuda_export")
Case = cases.Case
TINY = dict(unroll=1, chunk=4)  # short loops compile quickly on a CPU; several chunks

CONVS = (
    Case("row strip of 7, 24 channels", (1, 3, 9, 24), (1, 7), 24, pad=(0, 3), groups=24),
    Case("column strip of 21, longer than the map", (1, 9, 2, 8), (21, 1), 8, pad=(10, 0), groups=8),
    Case("5x5, odd size", (2, 3, 7, 5), (5, 5), 5, pad=2, groups=5),
    Case("7x7, weights loaded again at every step, uneven padding", (1, 4, 9, 8), (7, 7), 8, pad=((3, 3), (1, 4)), groups=8),
    Case("3^3 dilated", (1, 3, 5, 6, 2), (3, 3, 3), 2, pad=2, dilation=2, groups=2),
    Case("5^3, taps looped over", (1, 3, 3, 4, 2), (5, 5, 5), 2, pad=2, groups=2),
    Case("line of 11", (2, 13, 3), (11,), 3, pad=5, groups=3),
)
_name = lambda v: v.name if isinstance(v, Case) else str(v)


def _both(case, direction, dtype, **tiles):
    x, w, g = cases.draw(case, dtype)
    static, arrays = {"forward": ((), (x, w)), "input_gradient": ((case.x[1:-1],), (g, w)),
                      "weight_gradient": ((case.kernel,), (x, g))}[direction]
    found = jax.jit(functools.partial(getattr(gpu, direction), case.spec, *static, interpret=True, **tiles))(*arrays)
    wide = [a.astype(jnp.float32) for a in arrays]
    return found, jax.jit(functools.partial(getattr(reference, direction), case.spec, *static))(*wide).astype(dtype)


@pytest.mark.parametrize("direction", ["forward", "weight_gradient"])
@pytest.mark.parametrize("case", CONVS, ids=_name)
def test_depthwise_kernel_equals_its_twin(case, direction):
    terms = math.prod(case.x[:-1]) if direction == "weight_gradient" else math.prod(case.kernel)
    dtype = jnp.bfloat16 if case.kernel[-1] == 7 else jnp.float32
    cases.close(*_both(case, direction, dtype, **TINY), terms)


def test_input_gradient_is_the_kernel_with_flipped_taps():
    cases.close(*_both(CONVS[3], "input_gradient", jnp.float32, **TINY), 49)


def test_unrolled_steps_change_nothing():
    cases.close(*_both(CONVS[0], "forward", jnp.float32, unroll=3, chunk=5), 7)


def _loss(forward):
    return lambda x, w: jnp.sin(forward(x, w)).sum()


CONV = functools.partial(gpu.forward, CONVS[0].spec, interpret=True, **TINY)
TWIN = functools.partial(reference.forward, CONVS[0].spec)


def test_second_derivatives_of_the_kernel_equal_those_of_its_twin():
    x, w, _ = cases.draw(CONVS[0])
    norm = lambda forward: jax.grad(lambda x: jnp.vdot(jax.grad(_loss(forward))(x, w), x))(x)
    np.testing.assert_allclose(jax.jit(lambda: norm(CONV))(), norm(TWIN), atol=1e-4)  # sums of 49 products of order 1


def test_vmap_of_the_kernel_equals_vmap_of_its_twin():
    x, w, _ = cases.draw(CONVS[0])
    xs = jnp.stack([x, 2 * x, -x])
    np.testing.assert_allclose(jax.vmap(CONV, (0, None))(xs, w), jax.vmap(TWIN, (0, None))(xs, w), atol=1e-5)
    ws = jnp.stack([w, w + 1, 3 * w])
    found = jax.jit(jax.vmap(jax.grad(_loss(CONV), (0, 1))))(xs, ws)
    for f, t in zip(found, jax.vmap(jax.grad(_loss(TWIN), (0, 1)))(xs, ws)):
        np.testing.assert_allclose(f, t, atol=2e-4)


def test_each_device_convolves_its_part_of_a_sharded_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 3, 9, 24)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(1, 7, 1, 24)), jnp.float32)
    placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    compiled = jax.jit(jax.grad(_loss(CONV), (0, 1))).lower(placed, w).compile()
    for f, t in zip(compiled(placed, w), jax.grad(_loss(TWIN), (0, 1))(x, w)):
        np.testing.assert_allclose(f, t, atol=1e-4)  # float32 sums of 216 products in another order
    assert "all-gather" not in compiled.as_text()


BF16 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
LOWERED = {"strip 1x7": ((2, 8, 40, 24), (1, 7), 1), "strip 1x11": ((2, 8, 40, 160), (1, 11), 1),
           "strip 21x1": ((2, 40, 8, 64), (21, 1), 1), "3x3": ((2, 9, 9, 96), (3, 3), 1), "5x5": ((2, 9, 9, 3), (5, 5), 1),
           "7x7": ((2, 9, 9, 24), (7, 7), 1), "3^3 dilated": ((1, 6, 6, 6, 24), (3, 3, 3), 3),
           "5^3 dilated": ((1, 6, 6, 6, 24), (5, 5, 5), 2), "7^3": ((1, 6, 6, 6, 24), (7, 7, 7), 1)}


@pytest.mark.parametrize("name", LOWERED)
def test_value_and_gradients_of_conv_lower_for_cuda_as_kernels(name, monkeypatch):
    monkeypatch.setenv("JAXSEG_CONV", "pallas")
    shape, kernel, dilation = LOWERED[name]
    conv = lambda x, w: ops.conv(x, w, groups=shape[-1], dilation=dilation)
    both = lambda x, w, g: jax.vjp(conv, x, w)[1](g) + (conv(x, w),)
    text = cuda_export.lowered(both, BF16(*shape), jax.ShapeDtypeStruct((*kernel, 1, shape[-1]), jnp.float32), BF16(*shape))
    assert text.count(cuda_export.CALL) == 3 and "stablehlo.convolution" not in text


def test_a_mapped_kernel_lowers_for_cuda(monkeypatch):
    monkeypatch.setenv("JAXSEG_CONV", "pallas")
    conv = jax.vmap(lambda x, w: ops.conv(x, w, groups=24), (0, None))
    assert cuda_export.CALL in cuda_export.lowered(conv, BF16(3, 2, 8, 9, 24), BF16(1, 7, 1, 24))


def test_kernels_are_chosen_where_they_fit_and_asked_for(monkeypatch):
    fits = CONVS[0].spec, (4, 64, 64, 24), (1, 7, 1, 24)
    assert gpu_choose.lowerings("auto", *fits).forward is gpu.forward
    assert gpu_choose.lowerings("xla", *fits) == gpu_choose.XLA
    assert gpu_choose.lowerings("auto", CONVS[0].spec, (1, 8, 8, 24), (1, 7, 1, 24)) == gpu_choose.XLA  # too small
    for other in (fits[0]._replace(stride=(2, 2)), fits[0]._replace(groups=12)):
        assert gpu_choose.lowerings("pallas", other, *fits[1:]) == gpu_choose.XLA
    row = table.Row(table.Shape("strip", (4, 64, 64, 24), (1, 7), 24, groups=24), "forward", "gpu", 1.0, 2.0, None)
    monkeypatch.setattr(gpu_table, "TABLE_GPU", (row,))
    choice = gpu_choose.lowerings("auto", *fits)
    assert choice.forward is reference.forward and choice.weight_gradient is gpu.weight_gradient
    assert gpu_choose.mode() == "xla"  # no GPU here: nothing is traced for one
    monkeypatch.setenv("JAXSEG_CONV", "cuda")
    with pytest.raises(ConfigError, match="auto, xla, pallas"):
        gpu_choose.mode()


def test_without_triton_xla_takes_over(monkeypatch):
    def broken(*_, **__):
        raise NotImplementedError("no Triton in this jaxlib")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gpu, "forward", broken)
    gpu_choose.compiles.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="XLA's own convolutions"):
            assert gpu_choose.mode() == "xla"
    finally:
        gpu_choose.compiles.cache_clear()
