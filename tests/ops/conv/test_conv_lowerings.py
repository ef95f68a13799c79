"""Every lowering computes what XLA's own convolution computes: forward, both gradients, vmapped, sharded, in bfloat16."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu import blocks, depthwise, folded, planes, products, slabs, spectral, stems, threaded
from tests.ops.conv import cases

LOWERINGS = (
    *((getattr(depthwise, d), case) for d in cases.DIRECTIONS for case in cases.DEPTHWISE),
    *((getattr(planes, d), case) for d in cases.DIRECTIONS for case in cases.DENSE if len(case.kernel) == 3),
    *((folded.weight_gradient, case) for case in cases.DENSE if case.stride == 1),
    *((getattr(slabs, d), case) for d in cases.DIRECTIONS for case in cases.DENSE if len(case.kernel) == 3 and case.stride == 1),
    *((stems.forward, case) for case in cases.DENSE if case.stride > 1),
    *((getattr(threaded, d), case) for d in cases.DIRECTIONS[:2] for case in cases.DENSE if len(case.kernel) == 2),
    *((blocks.weight_gradient, case) for case in cases.DENSE if len(case.kernel) == 2),
    *((getattr(products, d), case) for d in cases.DIRECTIONS[:2] for case in cases.DENSE if case.stride == 1),
)
_name = lambda v: v.name if isinstance(v, cases.Case) else f"{v.__module__.rpartition('.')[2]}.{v.__name__}"


def _terms(case, direction):
    out = math.prod(case.spec.output(case.x[1:-1], case.kernel)) * case.x[0]
    return out if direction == "weight_gradient" else math.prod(case.kernel) * case.out // case.groups * case.x[-1]


def _run(function, direction, case, dtype=jnp.float32, wide=False):
    """`function` on the case's arrays of `dtype` (cast to float32 after that when `wide`)."""
    x, w, g = (a.astype(jnp.float32) if wide else a for a in cases.draw(case, dtype))
    static, arrays = {
        "forward": ((), (x, w)),
        "input_gradient": ((case.x[1:-1],), (g, w)),
        "weight_gradient": ((case.kernel,), (x, g)),
    }[direction]
    return jax.jit(functools.partial(function, case.spec, *static))(*arrays)


@pytest.mark.parametrize("lowering,case", LOWERINGS, ids=_name)
def test_lowering_equals_reference(lowering, case):
    direction = lowering.__name__ if lowering.__name__ in cases.DIRECTIONS else "weight_gradient"
    for dtype in (jnp.float32, jnp.bfloat16):
        found = _run(lowering, direction, case, dtype)
        wanted = _run(getattr(reference, direction), direction, case, dtype, wide=True).astype(dtype)  # rounded once
        cases.close(found, wanted, _terms(case, direction))


@pytest.mark.parametrize("positions", (1, 10, 64))
@pytest.mark.parametrize("case", [c for c in cases.DENSE if len(c.kernel) == 2], ids=_name)
def test_weight_gradient_by_blocks_does_not_depend_on_their_size(monkeypatch, case, positions):
    monkeypatch.setattr(blocks, "_POSITIONS", positions)  # single rows; rows that do not divide the image; several images
    wanted = _run(reference.weight_gradient, "weight_gradient", case)
    cases.close(_run(blocks.weight_gradient, "weight_gradient", case), wanted, _terms(case, "weight_gradient"))


PUBLIC = [case for case in (*cases.DEPTHWISE, *cases.DENSE) if case.public]


@pytest.mark.parametrize("case", PUBLIC, ids=_name)
def test_vjp_of_the_public_op_equals_reference(case):
    x, w, g = cases.draw(case)
    spec = case.spec
    public = lambda x, w: ops.conv(x, w, stride=spec.stride, padding=spec.padding, dilation=spec.dilation, groups=spec.groups)
    y, pull = jax.vjp(public, x, w)
    wanted, pull_reference = jax.vjp(functools.partial(reference.forward, spec), x, w)
    cases.close(y, wanted, _terms(case, "forward"))
    for name, a, b in zip(cases.DIRECTIONS[1:], pull(g), pull_reference(g)):
        cases.close(a, b, _terms(case, name))


@pytest.mark.parametrize("direction", cases.DIRECTIONS)
@pytest.mark.parametrize("case", cases.VOLUMES, ids=_name)
def test_products_of_spectra_equal_reference(case, direction):
    for dtype in (jnp.float32, jnp.bfloat16):
        found = _run(getattr(spectral, direction), direction, case, dtype)
        wanted = _run(getattr(reference, direction), direction, case, dtype, wide=True).astype(dtype)
        assert found.dtype == dtype and found.shape == wanted.shape
        found, wanted = np.asarray(found, np.float32), np.asarray(wanted, np.float32)
        # transforms of up to 15 numbers in float32, errors of which are spread over the whole channel; bfloat16 rounds once
        np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.std(), rtol=2 * float(jnp.finfo(dtype).eps))


def test_products_of_spectra_keep_their_digits_at_true_size():
    """13^3 on 16^3 in float32, beside the sum of shifted products: a hundredth of a thousandth of the deviation."""
    case = cases.Case("13^3", (1, 16, 16, 16, 2), (13, 13, 13), 2, pad=6, groups=2)
    for direction in cases.DIRECTIONS:
        found, wanted = (_run(getattr(module, direction), direction, case) for module in (spectral, depthwise))
        assert float(jnp.abs(found - wanted).max() / wanted.std()) < 1e-5


def test_vmap_over_both_arguments_equals_a_loop():
    case = cases.DEPTHWISE[0]
    x, w, g = cases.draw(case)
    xs, ws = jnp.stack([x, 2 * x, -x]), jnp.stack([w, w + 1, 3 * w])
    value = lambda x, w: jnp.vdot(ops.conv(x, w, groups=case.groups), g)
    found = jax.vmap(jax.grad(value, (0, 1)))(xs, ws)
    for i in range(3):
        one = jax.grad(value, (0, 1))(xs[i], ws[i])
        for f, o in zip(found, one):
            np.testing.assert_allclose(f[i], o, atol=1e-4)  # the same sums in another order: a few float32 roundings


def test_sharded_batch_equals_one_device_and_moves_no_activations():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(8, 8, 9, 4)), jnp.float32), jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)
    step = jax.jit(jax.grad(lambda x, w: jnp.sin(ops.conv(x, w, groups=4)).sum(), (0, 1)))
    compiled = step.lower(jax.device_put(x, batch), w).compile()
    found = compiled(jax.device_put(x, batch), w)
    for f, o in zip(found, step(x, w)):
        np.testing.assert_allclose(f, o, atol=2e-5)  # float32 sums of 576 numbers in another order
    assert "all-gather" not in compiled.as_text()  # the batch stays where it is; only dw is summed over devices
