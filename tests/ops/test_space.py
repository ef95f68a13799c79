"""Operations on images whose rows eight devices share: the numbers of one device, and neighbours exchange borders, not images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg import ops
from jaxseg.bench import collectives
from jaxseg.models.swin_unetr.windows import WindowBlock
from jaxseg.ops import devices, space

pytestmark = pytest.mark.usefixtures("unoptimised")  # the laws hold whatever XLA makes of the program


def mesh_of(data: int, rows: int):
    return jax.make_mesh((data, rows), ("data", "space"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[: data * rows])


def convolutions(x, w, u):
    """Kernels, strides, dilations and paddings of every kind; w [5, 3, 4, 4], u [4, 4, 4, 4]."""
    depthwise = functools.partial(ops.conv, groups=4)
    y = ops.conv(x, w) + ops.conv(x, w[:3, :1], dilation=2) + ops.conv(x, w[:1, :1]) + depthwise(x, w[:, :1, :1])
    halved = (
        ops.conv(x, w[:3], stride=2) + ops.conv(x, w[:2, :2], stride=2, padding=0) + ops.conv(x, w, stride=2, padding="same_tf")
    )
    back = ops.conv_transpose(halved, u, padding=1) + ops.conv_transpose(halved, u[:2, :2])
    depthwise_back = ops.conv_transpose(halved, u[:3, :3, :, :1], groups=4, padding=((1, 0), (1, 0)))
    return y + back + depthwise_back, ops.conv(x, w[:3, :3], padding=((0, 0), (1, 1)))


def pooling_and_resizing(x, w, u):
    x = x * w[0, 0, 0]
    rows, columns = x.shape[1:3]
    pooled = ops.max_pool(x, 3, stride=2, padding=1) + ops.max_pool(x) + ops.avg_pool(x)
    doubled = ops.resize(pooled, (rows, columns), align_corners=True) + ops.resize(pooled, (rows, columns), "nearest")
    return (
        doubled + ops.resize(pooled, (rows, columns)) + ops.spatial_max(x),
        ops.resize(x, (rows + 3, columns), "cubic"),
        ops.resize(x, (rows // 2, 5), "nearest"),
        ops.adaptive_avg_pool(x, 3),
    )


def norms_and_attention(x, w, u):
    scale, shift = u[0, 0, :1, 0] + w[0, 0, 0], w[1, 0, 0]
    y = ops.norm_act(ops.layer_norm(x, scale, shift, 1e-5), scale, shift, groups=2) + ops.norm_act(x, scale, shift)
    tokens = y.reshape(y.shape[0], -1, 2, 2)
    return y + space.over_queries(ops.attention, tokens, tokens, tokens).reshape(y.shape) + ops.linear(y, w[0, 0])


FUNCTIONS = {f.__name__: f for f in (convolutions, pooling_and_resizing, norms_and_attention)}
# at 4, 6 and 12 rows of 8 devices, 3 of 4 and 1 of 8, XLA's own weight gradients are wrong, or a neighbour has too few rows
ROWS = [(8, 4), (8, 6), (8, 12), (4, 12), (8, 32)]
EVERY = [(name, *rows) for name in FUNCTIONS for rows in ROWS]
QUICK = [("convolutions", 4, 12), ("pooling_and_resizing", 8, 32)]


def _draw(rows: int):
    rng = np.random.default_rng(0)
    shapes = (2, rows, 6, 4), (5, 3, 4, 4), (4, 4, 4, 4)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) / scale for s, scale in zip(shapes, (1, 4, 4))]


def _gradients(function):
    weighted = lambda tree: sum(jnp.sin(y).mean() for y in jax.tree.leaves(tree))
    return jax.value_and_grad(lambda *a: weighted(function(*a)), (0, 1, 2))


@functools.cache
def _alone(name: str, rows: int):
    return jax.jit(_gradients(FUNCTIONS[name]))(*_draw(rows))


@pytest.mark.parametrize(
    "name, count, rows", [pytest.param(*case, marks=() if case in QUICK else pytest.mark.full) for case in EVERY]
)
def test_values_and_gradients_are_those_of_one_device(name, count, rows):
    mesh = mesh_of(8 // count, count)
    x, *w = _draw(rows)
    found = jax.jit(devices.over(mesh, _gradients(FUNCTIONS[name])))(jax.device_put(x, NamedSharding(mesh, P("data"))), *w)
    for f, a in zip(jax.tree.leaves(found), jax.tree.leaves(_alone(name, rows)), strict=True):
        np.testing.assert_allclose(f, a, rtol=1e-5, atol=1e-6 * float(jnp.abs(a).max()))


@pytest.mark.full
@pytest.mark.parametrize("rows", [24, 16])  # 24: each device has whole windows of three rows; 16: all have all windows
def test_shifted_windows_are_those_of_one_device(rows):
    block = WindowBlock(4, 2, 3, shifted=True, rank=2, rngs=nnx.Rngs(0))
    run = jax.value_and_grad(lambda x: jnp.sin(block(x)).mean())
    x = jax.random.normal(jax.random.key(0), (2, rows, 8, 4))
    mesh = mesh_of(1, 8)
    compiled = jax.jit(devices.over(mesh, run), in_shardings=NamedSharding(mesh, P(None, "space"))).lower(x).compile()
    for f, a in zip(compiled(x), jax.jit(run)(x)):
        np.testing.assert_allclose(f, a, rtol=1e-5, atol=1e-7)
    moved = max(c.numbers for c in collectives.of(compiled) if c.kind != "all-reduce")
    assert moved < x.size if rows == 24 else moved >= x.size


def test_neighbours_exchange_borders_alone():
    """Rows that divide: nothing but rows within reach of a window moves, and each weight is summed once."""
    mesh = mesh_of(1, 8)
    shard = NamedSharding(mesh, P("data", "space"))
    run = lambda x, w, u: ops.resize(ops.max_pool(ops.conv(ops.conv(x, w), w[:3], stride=2)), x.shape[1:3])
    arguments = _draw(64)
    placed = (jax.device_put(arguments[0], shard), *(jax.device_put(a, NamedSharding(mesh, P())) for a in arguments[1:]))
    exchanged = collectives.of(jax.jit(devices.over(mesh, _gradients(run))).lower(*placed).compile())
    assert {c.kind for c in exchanged} == {"all-reduce", "collective-permute"} and not any(c.in_loop for c in exchanged), (
        exchanged
    )
    row = arguments[0][:, 0].size
    assert max(c.numbers for c in exchanged if c.kind == "collective-permute") <= 2 * row
    assert sum(c.numbers for c in exchanged if c.kind == "all-reduce") <= 1 + arguments[1].size + arguments[1][:3].size


def test_levels_that_every_device_computes_whole_are_noted_while_a_program_is_traced():
    mesh = mesh_of(1, 8)

    def work(x):
        for _ in range(3):  # 64, 32 and 16 rows; then 8
            x = ops.max_pool(ops.conv(x, jnp.zeros((5, 3, 2, 2))))
        return ops.spatial_max(ops.conv(x, jnp.zeros((5, 3, 2, 2))))

    noted = []
    for rows in (64, 24):
        with space.noting_whole() as found:
            jax.eval_shape(devices.over(mesh, lambda x: work(x)), jax.ShapeDtypeStruct((1, rows, 16, 2), jnp.float32))
        noted.append(found)
    assert noted == [{8}, {24, 12, 6, 3}]  # a device with one row of 8 does not reach two rows far; 24 rows are 3 for each
