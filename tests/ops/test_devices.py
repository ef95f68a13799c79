"""Operations over a batch that eight devices share: no activation moves, each sum over the batch is one all-reduce, the numbers
are those of one device; also under `shard_map` with its own checks, and in forward mode."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg import ops
from jaxseg.bench import collectives
from jaxseg.ops import devices
from jaxseg.ops.conv import api
from jaxseg.ops.conv.cpu import blocks, choose, depthwise, folded, planes, products, slabs, spectral, stems, threaded
from jaxseg.ops.conv.spec import Spec

pytestmark = pytest.mark.usefixtures("unoptimised")  # the laws hold whatever XLA makes of the program


class Case(NamedTuple):
    """An operation of x [B, ...] and w."""

    run: Callable
    x: tuple[int, ...]
    w: tuple[int, ...]


def _msca(x, w):
    layer = lambda height, width: (w[:height, :width, None], w[0, 0])
    mix = jnp.tile(w[:1, :1, None], (1, 1, w.shape[-1], 1))
    return ops.msca(x, layer(3, 3), [(layer(1, 3), layer(3, 1))], (mix, w[0, 0]), from_input=False)


def _by_xla(x, w):
    """Operations that are XLA's own."""
    x = x * w
    x = ops.max_pool(x) + ops.avg_pool(x) + ops.max_pool(x, 3, stride=2, padding=1) + ops.gelu(ops.adaptive_avg_pool(x, 2))
    x = ops.resize(x, (3, 5)) + ops.resize(x, (3, 5), "nearest") + ops.resize(x, (3, 5), "cubic") + ops.spatial_max(x)
    return ops.attention(x, x, x)


CONVOLUTIONS = {
    "slabs": ({}, (8, 2, 23, 23, 2), (3, 3, 3, 2, 2)),
    "slabs, gathered": ({}, (8, 2, 23, 23, 1), (3, 3, 3, 1, 48)),
    "planes and folded": ({}, (8, 4, 4, 4, 4), (3, 3, 3, 4, 4)),
    "planes, strided": ({"stride": 2}, (8, 4, 4, 4, 4), (3, 3, 3, 4, 4)),
    "blocks and threaded": ({}, (8, 64, 64, 32), (1, 3, 32, 32)),
    "products": ({}, (8, 2, 2, 64), (3, 3, 64, 64)),
    "stems": ({"stride": 4, "padding": 3}, (8, 9, 9, 3), (7, 7, 3, 4)),
    "grouped": ({"groups": 2}, (8, 4, 4, 4), (3, 3, 2, 4)),
    "depthwise": ({"groups": 4}, (8, 8, 9, 4), (3, 3, 1, 4)),
    "spectral": ({"groups": 2}, (8, 4, 4, 4, 2), (9, 9, 9, 1, 2)),
    "patches and matmul": ({"stride": 2, "padding": 0}, (8, 4, 4, 4), (2, 2, 4, 4)),
}
CASES = {
    **{name: Case(lambda x, w, o=options: ops.conv(x, w, **o), x, w) for name, (options, x, w) in CONVOLUTIONS.items()},
    "transposed": Case(lambda x, w: ops.conv_transpose(x, w, padding=1), (8, 4, 4, 4), (4, 4, 4, 4)),
    "materialize": Case(lambda x, w: ops.materialize(x * w), (8, 5, 4), (4,)),
    "norms": Case(lambda x, w: ops.norm_act(ops.layer_norm(x, w, w, 1e-5), w, w, groups=2), (8, 5, 4, 4), (4,)),
    "by XLA": Case(_by_xla, (8, 4, 4, 2), (2,)),
    "attention by blocks": Case(
        lambda x, w: ops.attention(x, x, x, bias=w, regions=np.zeros((2, 300), np.int32)), (16, 300, 1, 2), (1, 1, 300, 300)
    ),
    "multi-scale attention": Case(_msca, (8, 6, 6, 2), (3, 3, 2)),
}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), (devices.AXIS,), axis_types=(AxisType.Auto,))


def _draw(case: Case) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=case.x), jnp.float32), jnp.asarray(rng.normal(size=case.w) / 4, jnp.float32)


def _gradients(case: Case) -> Callable:
    return jax.value_and_grad(lambda x, w: jnp.sin(case.run(x, w)).mean(), (0, 1))


def _same(found, wanted) -> None:
    for f, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(f, w, rtol=1e-6, atol=1e-6 * float(jnp.abs(w).max()) + 1e-8)  # sums in another order


@pytest.mark.parametrize("name", CASES)
def test_no_activation_moves_and_each_weight_is_summed_once(name, mesh):
    case = CASES[name]
    placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(_draw(case), (P("data"), P()))]
    compiled = jax.jit(devices.over(mesh, _gradients(case))).lower(*placed).compile()
    exchanged = collectives.of(compiled)
    assert {c.kind for c in exchanged} == {"all-reduce"} and not any(c.in_loop for c in exchanged), exchanged
    # the loss, and w as often as the operation has it for an argument: no partial sums
    assert sum(c.numbers for c in exchanged) <= 1 + (4 if name == "norms" else 3 if "scale" in name else 1) * np.prod(case.w)
    value, (dx, dw) = compiled(*placed)
    assert dx.sharding.spec[:1] == ("data",)
    _same((value, dx, dw), jax.jit(_gradients(case))(*_draw(case)))


def test_every_lowering_of_a_convolution_for_cpus_is_among_the_cases():
    taken = set()
    for options, x, w in CONVOLUTIONS.values():
        rank, options = len(x) - 2, {"stride": 1, "padding": None, "groups": 1, **options}
        stride = (options["stride"],) * rank
        pads = api.resolve_padding(options["padding"], x[1:-1], w[:rank], stride, (1,) * rank)
        one = Spec(stride, pads, (1,) * rank, options["groups"])
        taken |= {function.__module__ for function in choose.lowerings(one, (1, *x[1:]), w)}
    modules = (blocks, depthwise, folded, planes, products, slabs, spectral, stems, threaded)
    assert {module.__name__ for module in modules} <= taken


@pytest.mark.parametrize("name", CASES)
def test_gradients_pass_the_checks_of_shard_map(name, mesh):
    """Tracing checks what varies over the devices; "depthwise" and the attention's bias have their values compared too."""
    case = CASES[name]
    shares = lambda x, w: jnp.sin(case.run(x, w)).mean() / 8
    summed = lambda x, w: (lambda value, d: (jax.lax.psum(value, "data"), d))(*jax.value_and_grad(shares, (0, 1))(x, w))
    inside = jax.jit(jax.shard_map(summed, mesh=mesh, in_specs=(P("data"), P()), out_specs=(P(), (P("data"), P()))))
    arguments = _draw(case)
    if name in ("depthwise", "attention by blocks"):
        _same(inside(*arguments), jax.jit(_gradients(case))(*arguments))
    else:
        jax.eval_shape(inside, *arguments)


@pytest.mark.parametrize("name", ["slabs", "depthwise", "patches and matmul", "materialize", "norms", "attention by blocks"])
def test_forward_mode_takes_plain_lowerings_and_others_say_that_they_have_none(name):
    case = CASES[name]
    x, w = _draw(case)
    forward = lambda x, w: jax.jvp(case.run, (x, w), (jnp.ones_like(x), jnp.ones_like(w)))
    with pytest.raises(TypeError, match="forward-mode autodiff .jvp. to a custom_vjp function"):
        jax.jit(forward).lower(x, w)
    with ops.plain_lowerings():
        y, dy = jax.jit(forward)(x, w)
    cotangent = jnp.cos(y)
    dx, dw = jax.jit(lambda x, w: jax.vjp(case.run, x, w)[1](cotangent))(x, w)
    np.testing.assert_allclose(jnp.vdot(cotangent, dy), dx.sum() + dw.sum(), rtol=2e-4, atol=1e-4)  # <g, J 1> = <J' g, 1>
