"""Networks on images whose rows devices share: logits and every gradient are those of one device; U-Nets gather no image,
SegFormer keys and values alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.bench import collectives
from jaxseg.config import space as rules
from jaxseg.losses import TERMS
from jaxseg.losses import compose as losses
from jaxseg.metrics import counts
from jaxseg.models import create_model, functional, registry
from jaxseg.models.base import Outputs
from jaxseg.models.functional import ForwardContext
from jaxseg.ops import devices

pytest.importorskip("torch", reason="parity needs the extra [parity]")

from tests.models.ports import parity  # noqa: E402

pytestmark = pytest.mark.usefixtures("unoptimised")  # the laws hold whatever XLA makes of the program

# Sizes whose levels have 4, 6 or 12 rows beside larger ones: not a multiple of 8 devices, or too few rows for a window's reach
CASES = {
    "unet3d_test": ((48, 8, 8), {}),  # 48, 24, 12, 6
    "unet3d_test, pooled": ((32, 8, 8), {"down": "pool", "upsampling": "linear"}),  # 32, 16, 8, 4
    "unet3d_test, 96": ((96, 8, 8), {}),
    "nnunet_plain_test": ((48, 16, 16), {}),  # 48, 24, 12
    "nnunet_resenc_test": ((48, 16, 16), {}),  # 48, 24
    "unetr_test": ((128, 32, 32), {"image_size": (128, 32, 32)}),  # 8 rows of patches
    "unetr_test, few": ((64, 32, 32), {"image_size": (64, 32, 32)}),  # 4 rows of patches
    "swin_unetr_test": ((96, 64, 64), {}),  # 48, 24, 12, 6, 3 rows of patches, windows of 3
    "segnext_test": ((192, 32), {}),  # 48, 24, 12, 6
    "segnext_test_ich": ((128, 32), {}),  # 32, 16, 8, 4
    "segformer_test": ((256, 32), {}),  # 64, 32, 16, 8; keys and values have 8
    "segformer_test_ich": ((192, 32), {}),  # 48, 24, 12, 6; keys and values have 6
}
QUICK = ("unet3d_test", (1, 8))
EVERY = [(name, mesh) for name in CASES for mesh in ((2, 4), (1, 8))]


@pytest.mark.parametrize(
    "name, shape", [QUICK, *(pytest.param(*case, marks=pytest.mark.full) for case in EVERY if case != QUICK)]
)
def test_logits_and_gradients_are_those_of_one_device(name, shape):
    """In float64, because float32 does not hold the gradients of some networks (UNETR's differ by 0.6 %)."""
    size, options = CASES[name]
    with parity.in_double():
        model = create_model(name.partition(",")[0], num_classes=2, **options)
        network, params, state = functional.split(model)
        rng = np.random.default_rng(0)
        params = {key: np.asarray(p) + (0.1 * rng.normal(size=p.shape) if p.ndim < 2 else 0) for key, p in params.items()}
        image, truth = (rng.normal(size=(2, *size, channels)) for channels in (model.in_channels, 2))

        def loss(params, image, truth):
            outputs, new = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
            return jnp.square(outputs.logits - truth).mean(), (outputs.logits, new)

        gradients = jax.value_and_grad(loss, has_aux=True)
        mesh = jax.make_mesh(shape, ("data", "space"), axis_types=(AxisType.Auto,) * 2)
        spread, copied, rows = (NamedSharding(mesh, spec) for spec in (P("data"), P(), P("data", "space")))
        compiled = jax.jit(
            devices.over(mesh, gradients), in_shardings=(copied, spread, spread), out_shardings=((copied, (rows, copied)), copied)
        )
        compiled = compiled.lower(params, image, truth).compile()
        found, wanted = compiled(params, image, truth), jax.jit(gradients)(params, image, truth)
        scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(wanted[1]))
        for (path, w), f in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True):
            assert w.dtype == jnp.float64 and float(jnp.abs(f - w).max()) < 1e-9 * max(float(jnp.abs(w).max()), scale), path
    exchanged, images = collectives.of(compiled), 2 // shape[0]
    if name.startswith(("unet3d", "nnunet")):
        full = images * int(np.prod(size)) * 4  # numbers of the narrowest activation at full size
        assert not any(c.in_loop for c in exchanged)
        assert all(c.numbers <= full / 2 for c in exchanged if c.kind != "all-reduce"), exchanged
    if name == "segformer_test":  # keys and values, at most those of the last stage; the first activations have 4 times as many
        assert not any(c.in_loop for c in exchanged)
        assert all(c.numbers <= images * 2 * 8 * 64 for c in exchanged if c.kind != "all-reduce"), exchanged


@pytest.mark.full
@pytest.mark.parametrize("classes", [1, 4])
def test_losses_and_scores_are_those_of_one_device(classes):
    """Every term that the rules allow, of the logits and of an auxiliary output whose 12 rows 8 devices do not divide."""
    names = [n for n in TERMS if n not in rules.WHOLE_IMAGE_LOSSES and (n, classes) != ("cross_entropy", 1)]
    loss = losses.build([(name, 1.0) for name in names], aux_weights=(0.5,))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, rows, 6, classes)).astype(np.float32) for rows in (24, 12)]
    mask, weight = rng.integers(0, max(classes, 2), (2, 24, 6)).astype(np.int32), np.array([1.0, 0.5], np.float32)

    def value(logits, coarse, mask, weight):
        total, count, parts = loss(Outputs(logits, (coarse,)), {"mask": mask, "weight": weight})
        labels = logits[..., 0] > 0 if classes == 1 else jnp.argmax(logits, -1)
        return total / count, (
            parts,
            counts.count(labels, mask, classes),
            counts.confusion(labels, mask, max(classes, 2), weight),
        )

    work = jax.value_and_grad(value, (0, 1), has_aux=True)
    mesh = jax.make_mesh((1, 8), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    rows, whole = NamedSharding(mesh, P(None, "space")), NamedSharding(mesh, P())
    shared = jax.jit(devices.over(mesh, work), in_shardings=(rows, whole, whole, whole))
    found, wanted = shared(*arrays, mask, weight), jax.jit(work)(*arrays, mask, weight)
    for (path, w), f in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(f, w, rtol=1e-5, atol=1e-6, err_msg=str(path))  # sums in another order


def test_every_family_that_the_rules_allow_is_here():
    assert {registry.family_of(name.partition(",")[0]).__name__.split(".")[2] for name in CASES} == set(rules.FAMILIES)
