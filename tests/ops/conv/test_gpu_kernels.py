"""Laws of the GPU kernels that a CPU can check: in interpret mode each equals its reference, and each lowers for CUDA."""

import functools
import importlib
import importlib.util
import math
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.bench.gpu import kernels
from jaxseg.ops import devices, gpu_probe
from jaxseg.ops.attention import cudnn
from jaxseg.ops.attention import reference as attention_reference
from jaxseg.ops.components import api as components
from jaxseg.ops.conv import reference
from jaxseg.ops.conv.gpu import choose as gpu_choose
from jaxseg.ops.conv.gpu import depthwise as gpu
from jaxseg.ops.conv.gpu import table as gpu_table
from jaxseg.ops.distance import api as distance
from jaxseg.ops.norm import act as norm_act
from jaxseg.types import ConfigError
from tests.ops import cuda_export
from tests.ops.conv import cases

Case = cases.Case
TINY = dict(unroll=1, chunk=4, grid=3)  # short loops compile quickly on a CPU; several chunks, several pieces a program

CONVS = (
    Case("row strip of 7, 24 channels", (1, 3, 9, 24), (1, 7), 24, pad=(0, 3), groups=24),
    Case("column strip of 21, longer than the map", (1, 9, 2, 8), (21, 1), 8, pad=(10, 0), groups=8),
    Case("5x5, odd size", (2, 3, 7, 5), (5, 5), 5, pad=2, groups=5),
    Case("7x7, weights loaded again at every step, uneven padding", (1, 4, 9, 8), (7, 7), 8, pad=((3, 3), (1, 4)), groups=8),
    Case("3^3 dilated", (1, 3, 5, 6, 2), (3, 3, 3), 2, pad=2, dilation=2, groups=2),
    Case("5^3, taps looped over", (1, 3, 3, 4, 2), (5, 5, 5), 2, pad=2, groups=2),
    Case("line of 11", (2, 13, 3), (11,), 3, pad=5, groups=3),
    Case("9^3, every cross tap looped over", (1, 3, 2, 4, 2), (9, 9, 9), 2, pad=4, groups=2),
)
_name = lambda v: v.name if isinstance(v, Case) else str(v)


def _both(case, direction, dtype, **tiles):
    x, w, g = cases.draw(case, dtype)
    static, arrays = {
        "forward": ((), (x, w)),
        "input_gradient": ((case.x[1:-1],), (g, w)),
        "weight_gradient": ((case.kernel,), (x, g)),
    }[direction]
    found = jax.jit(functools.partial(getattr(gpu, direction), case.spec, *static, interpret=True, **tiles))(*arrays)
    wide = [a.astype(jnp.float32) for a in arrays]
    return found, jax.jit(functools.partial(getattr(reference, direction), case.spec, *static))(*wide).astype(dtype)


@pytest.mark.parametrize("direction", ["forward", "weight_gradient"])
@pytest.mark.parametrize("case", CONVS, ids=_name)
def test_depthwise_kernel_equals_its_reference(case, direction):
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
REFERENCE = functools.partial(reference.forward, CONVS[0].spec)


def test_second_derivatives_of_the_kernel_equal_those_of_its_reference():
    x, w, _ = cases.draw(CONVS[0])
    norm = lambda forward: jax.grad(lambda x: jnp.vdot(jax.grad(_loss(forward))(x, w), x))(x)
    np.testing.assert_allclose(jax.jit(lambda: norm(CONV))(), norm(REFERENCE), atol=1e-4)  # sums of 49 products of order 1


def test_vmap_of_the_kernel_equals_vmap_of_its_reference():
    x, w, _ = cases.draw(CONVS[0])
    xs = jnp.stack([x, 2 * x, -x])
    np.testing.assert_allclose(jax.vmap(CONV, (0, None))(xs, w), jax.vmap(REFERENCE, (0, None))(xs, w), atol=1e-5)
    ws = jnp.stack([w, w + 1, 3 * w])
    found = jax.jit(jax.vmap(jax.grad(_loss(CONV), (0, 1))))(xs, ws)
    for f, t in zip(found, jax.vmap(jax.grad(_loss(REFERENCE), (0, 1)))(xs, ws)):
        np.testing.assert_allclose(f, t, atol=2e-4)


def test_each_device_convolves_its_part_of_a_sharded_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 3, 9, 24)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(1, 7, 1, 24)), jnp.float32)
    placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    compiled = jax.jit(devices.over(mesh, jax.grad(_loss(CONV), (0, 1)))).lower(placed, w).compile()
    for f, t in zip(compiled(placed, w), jax.grad(_loss(REFERENCE), (0, 1))(x, w)):
        np.testing.assert_allclose(f, t, atol=1e-4)  # float32 sums of 216 products in another order
    assert "all-gather" not in compiled.as_text()


BF16 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
LOWERED = {
    "strip 1x7": ((2, 8, 40, 24), (1, 7), 1),
    "strip 1x11": ((2, 8, 40, 160), (1, 11), 1),
    "strip 21x1": ((2, 40, 8, 64), (21, 1), 1),
    "3x3": ((2, 9, 9, 96), (3, 3), 1),
    "5x5": ((2, 9, 9, 3), (5, 5), 1),
    "7x7": ((2, 9, 9, 24), (7, 7), 1),
    "3^3 dilated": ((1, 6, 6, 6, 24), (3, 3, 3), 3),
    "5^3 dilated": ((1, 6, 6, 6, 24), (5, 5, 5), 2),
    "7^3": ((1, 6, 6, 6, 24), (7, 7, 7), 1),
}


@pytest.mark.parametrize("name", LOWERED)
def test_value_and_gradients_of_conv_lower_for_cuda_as_kernels(name, monkeypatch):
    monkeypatch.setenv("JAXSEG_CONV", "pallas")
    shape, kernel, dilation = LOWERED[name]
    conv = lambda x, w: ops.conv(x, w, groups=shape[-1], dilation=dilation)
    both = lambda x, w, g: jax.vjp(conv, x, w)[1](g) + (conv(x, w),)
    text = cuda_export.lowered(both, BF16(*shape), jax.ShapeDtypeStruct((*kernel, 1, shape[-1]), jnp.float32), BF16(*shape))
    kernels = set(re.findall(r"depthwise_(?:weights_)?\d+x\d+", text))  # jax 0.11 lowers equal programs once: count names
    taps = f"{math.prod(kernel) // max(kernel)}x{max(kernel)}"
    assert kernels == {f"depthwise_{taps}", f"depthwise_weights_{taps}"} and "stablehlo.convolution" not in text


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
    assert gpu_choose.mode() == "xla"  # no GPU here: nothing is traced for one
    monkeypatch.setenv("JAXSEG_CONV", "cuda")
    with pytest.raises(ConfigError, match="auto, xla, pallas"):
        gpu_choose.mode()


def test_the_rule_follows_every_measured_row_that_is_larger_than_a_launch():
    rows = [row for row in gpu_table.TABLE_GPU if math.prod(row.shape.x) > 2**21]
    assert len(rows) >= 30
    for row in rows:
        assert gpu_table.faster(row.shape.kernel, row.direction) == (row.ours < row.xla), (row.shape, row.direction)


def test_one_kernel_serves_every_shape_and_both_axes_of_a_strip(monkeypatch):
    """Sizes are arguments: the texts of equal taps and channels are equal, so that XLA compiles them once."""
    monkeypatch.setenv("JAXSEG_CONV", "pallas")
    conv = functools.partial(ops.conv, groups=64)
    three = lambda x, y, z, row, column: (conv(x, row), conv(y, row), conv(z, column))
    text = cuda_export.lowered(
        three, BF16(2, 128, 128, 64), BF16(4, 64, 64, 64), BF16(2, 32, 36, 64), BF16(1, 7, 1, 64), BF16(7, 1, 1, 64)
    )
    kernels = re.findall(r"custom_call @__gpu\$xla\.gpu\.triton\(.*?(ir = \".*?\"), name", text)
    assert len(kernels) == 3 and len(set(kernels)) == 1


@pytest.mark.parametrize("reported, wanted", [("9.0", (9, 0)), ("12.1", (12, 1)), ("gfx942", None), ("", None)])
def test_the_capability_is_cudas_or_none(reported, wanted, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [type("Device", (), {"compute_capability": reported})()])
    assert gpu_probe._capability.__wrapped__() == wanted


def test_a_kernel_that_does_not_compile_here_is_said_once_and_left_to_xla(monkeypatch):
    def broken(*_, **__):
        raise NotImplementedError("no Triton in this jaxlib")

    monkeypatch.setattr(gpu_probe, "capability", lambda: (9, 0))
    monkeypatch.setattr(gpu_probe, "_COMPILES", {})
    monkeypatch.setattr(gpu, "weight_gradient", broken)
    monkeypatch.setattr(gpu, "forward", reference.forward)
    shapes = CONVS[0].spec, (4, 64, 64, 24), (1, 7, 1, 24)
    assert gpu_choose.mode() == "auto"
    with pytest.warns(RuntimeWarning, match=r"Weight gradients of depthwise.*\(1, 7\).*no Triton in this jaxlib"):
        choice = gpu_choose.lowerings("auto", *shapes)
    assert choice == gpu_choose.XLA._replace(input_gradient=gpu.input_gradient)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu_choose.lowerings("auto", *shapes) == choice


def _attention(q, k, v, bias=None):
    return ops.attention(q, k, v, bias=bias)


ATTENTIONS = {  # q, k, bias, what cuDNN is asked for
    "segformer_b0, first stage": ((2, 1024, 1, 32), (2, 16, 1, 32), None, "__cudnn$fmhaSoftmax"),
    "swin, windows of 7^3, bias per relative position": (
        (4, 343, 3, 16),
        (4, 343, 3, 16),
        (1, 3, 343, 343),
        "__cudnn$fmhaScaleBiasSoftmax",
    ),
    "an odd number of positions without a bias": ((2, 49, 1, 32), (2, 49, 1, 32), None, "__cudnn$fmhaScaleBiasSoftmax"),
    "a head of 12": ((2, 16, 2, 12), (2, 16, 2, 12), None, None),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_and_its_gradient_lower_for_cuda_by_cudnns_rules(name, monkeypatch):
    q, k, bias, call = ATTENTIONS[name]
    rules = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(rules, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(gpu_probe, "capability", lambda: (9, 0))
    monkeypatch.setattr(gpu_probe, "compiles", lambda *_, **__: True)
    arguments = [BF16(*q), BF16(*k), BF16(*k), *([jax.ShapeDtypeStruct(bias, jnp.float32)] if bias else [])]
    loss = lambda *a: _attention(*a).astype(jnp.float32).sum()
    text = cuda_export.lowered(jax.grad(loss, tuple(range(len(arguments)))), *arguments, triton=False)
    assert (f"@{call}Backward" in text) if call else "__cudnn" not in text


@pytest.mark.parametrize("biased", [True, False])
def test_padding_odd_lengths_for_cudnn_changes_no_result(biased):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 3, 8)), jnp.float32) for _ in range(3))
    arrays = (q, k, v, *([jnp.asarray(rng.normal(size=(1, 3, 5, 5)), jnp.float32)] if biased else []))
    padded = lambda q, k, v, bias=None: cudnn.attention(q, k, v, bias, None, scale=0.3, implementation="xla")
    plain = lambda q, k, v, bias=None: attention_reference.attention(q, k, v, bias=bias, scale=0.3)
    loss = lambda f: lambda *a: jnp.sin(f(*a)).sum()
    found, wanted = (jax.jit(jax.grad(loss(f), tuple(range(len(arrays)))))(*arrays) for f in (padded, plain))
    for f, w in zip(found, wanted):
        np.testing.assert_allclose(f, w, atol=1e-5)  # float32, sums of 6 terms instead of 5, the last one 0


def test_regions_as_features_for_cudnn_change_no_result():
    """Two rows of regions, the first of one region alone, over a batch of four; 3 and 7 are names, not counts."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(4, 6, 3, 8)), jnp.float32) for _ in range(3))
    bias, regions = jnp.asarray(rng.normal(size=(1, 3, 6, 6)), jnp.float32), np.array([[7] * 6, [3, 3, 7, 7, 3, 0]])
    marked = lambda *a: cudnn.attention(*a, regions, scale=0.3, implementation="xla")
    plain = lambda q, k, v, bias: attention_reference.attention(
        q, k, v, bias=attention_reference.joined(bias, jnp.asarray(regions), 4), scale=0.3
    )
    loss = lambda f: lambda *a: jnp.sin(f(*a)).sum()
    found, wanted = (jax.jit(jax.value_and_grad(loss(f), (0, 1, 2, 3)))(q, k, v, bias) for f in (marked, plain))
    for f, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(f, w, atol=3e-5)  # scores about 100 larger in float32


def test_a_symbolic_batch_is_read_as_one_image_by_every_choice():
    """A program exported for any batch must not ask how large it is."""
    (batch,) = jax.export.symbolic_shape("b")
    struct = lambda *s: jax.ShapeDtypeStruct((batch, *s), jnp.float32)
    cuda_export.lowered(lambda q, k: _attention(q, k, k), struct(1024, 2, 16), struct(1024, 2, 16))
    weights = jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
    for w, groups in zip(weights, (8, 1)):
        cuda_export.lowered(functools.partial(ops.conv, groups=groups), struct(16, 16, 8), w)


PROGRAMS = {
    "distance transform": (lambda m: distance.distance_transform(m), (1, 6, 7, 8)),
    "signed distance": (lambda m: distance.signed_distance(m), (1, 6, 7)),
    "components": (lambda m: components.label(m[0]), (1, 6, 7, 8)),
    "largest component": (lambda m: components.largest(m[0], 3), (1, 6, 7, 8)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_over_volumes_lower_for_cuda_without_the_host(name):
    function, shape = PROGRAMS[name]
    text = cuda_export.lowered(function, jax.ShapeDtypeStruct(shape, jnp.bool_))
    assert "callback" not in text and "custom_call" not in text


def test_given_statistics_are_a_batch_norm_at_inference():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    mean, var, weight, bias = (jnp.asarray(a, jnp.float32) for a in ([1, 2, 3], [4, 5, 6], [1, -1, 2], [0, 1, 2]))
    found = norm_act.norm_act(x, weight, bias, mean=mean, var=var, act="relu")
    np.testing.assert_allclose(found, jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * weight + bias, 0), atol=1e-6)


def test_rows_for_a_gpu_name_every_kernel_once():
    rows = kernels.gpu_rows()
    assert len({row.name for row in rows}) == len(rows) and min(row.bytes for row in rows) > 0
