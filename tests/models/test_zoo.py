"""Every network in the registry keeps the contract: true sizes by their shapes, `_test` variants by computing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers import ForwardContext
from jaxseg.models import create_model, functional, list_models
from jaxseg.models.registry import family_of, variants

TRUE = [(n, rank) for n in list_models() if "_test" not in n for rank in variants()[n].ranks]
FIRST = {(family_of(n).__name__, rank): n for n, rank in reversed(TRUE)}.values()  # one of each family and rank
TEST = [(n, rank) for n in list_models("_test") for rank in variants()[n].ranks]
# Halves the time to compile; LLVM's own passes left out too, 3-D networks are quicker by another third, 2-D ones slower.
QUICK = {
    2: {"xla_backend_optimization_level": 0},
    3: {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
}
# Gradients that take XLA half a minute and more to compile; these are compiled as in training.
SLOW = {
    "hdbet_test",
    "linknet3d_test",
    "mobile_unetr_test",
    "mobile_unetr_3d_test",
    "swin_unetr_test",
    *(n for n, _ in TEST if n.startswith("dualbranch_1")),
}
# One of each family and rank runs by default, of the dual-branch networks the quickest; the others are the long set.
ONE = {(family_of(n).__name__, rank): (n, rank) for n, rank in reversed(TEST)}.values()
# MobileUNETR's blocks are those of its networks for volumes, which run by default.
# The labels of MONAI's UNet on planes are compared in tests/importing.
REPEATED = {("mobile_unetr_test", 2), ("mobile_unetr_3d_test", 2), ("monai_unet_test", 3), ("planes_test", 3)}
COMPUTED = [
    pytest.param(n, r, marks=() if (n, r) in ONE and (n, r) not in REPEATED else pytest.mark.full, id=f"{n}-{r}d")
    for n, r in TEST
]
# Of these families the parity tests compare every gradient with that of another implementation; unet_test runs beside that.
COMPARED = {
    *("segnext_test", "segformer_test", "effisegnet_test", "pspnet_test", "unet2d_test", "unet3p_test", "resunetpp_test"),
    *("mednext_test", "basicunet_test", "dynunet_test", "segresnet_test", "monai_unet_test", "planes_test"),
}
# In bfloat16 XLA takes two to four times as long; by default networks of each kind run, not every one.
HALVES = [
    pytest.param(
        *p.values,
        marks=pytest.mark.full
        if p.marks or p.values[0] in SLOW | {"unetr_test", "resunetpp_test", "effisegnet_test", "mednext_test"}
        else (),
        id=p.id,
    )
    for p in COMPUTED
]
GRADIENTS = [
    pytest.param(n, r, marks=() if (n, r) in ONE and n not in SLOW | COMPARED else pytest.mark.full, id=f"{n}-{r}d")
    for n, r in TEST
]


def size_for(model, wanted) -> tuple[int, ...]:
    """The first spatial size from `wanted` on that the network takes, the last axis 16 or more longer."""

    def taken(start):
        for n in range(start, start + 600):
            try:
                model.check((1, *(n,) * model.rank, model.in_channels))
            except ValueError:
                continue
            return n
        raise AssertionError(f"no square size from {start} to {start + 600} is taken")

    first = taken(wanted)
    return (*(first,) * (model.rank - 1), taken(first + 16) if model.rank == 2 else first)


@pytest.mark.parametrize(
    "name,rank,dtype",
    [
        pytest.param(n, r, d, marks=() if n in FIRST and d == "bfloat16" else pytest.mark.full, id=f"{n}-{r}d-{d}")
        for n, r in TRUE
        for d in ("bfloat16", "float32")  # by default where the two could differ; `_test` variants compute in both
    ],
)
def test_true_sizes_give_float32_logits_of_the_images_size(name, rank, dtype):
    model = create_model(name, rank=rank, abstract=True)
    network, params, state = functional.split(model)
    size = size_for(model, 97 if rank == 2 else 33)
    image = jax.ShapeDtypeStruct((2, *size, model.in_channels), dtype)
    logits = jax.eval_shape(lambda p, s, x: network.apply(p, s, x)[0].logits, params, state, image)
    assert logits.shape == (2, *size, model.num_classes) and logits.dtype == jnp.float32


def build(name, rank):
    """(network, params, state, image [2, *S, C], classes) of a `_test` variant, at an odd size where it takes one."""
    model = create_model(name, rank=rank)
    size = size_for(model, 65 if rank == 2 else 17)  # 65: at stride 32 more than one position is left
    image = np.random.default_rng(0).normal(size=(2, *size, model.in_channels)).astype(np.float32)
    return (*functional.split(model), image, model.num_classes)


@functools.cache
def computed(name, rank):
    """(compiled(dtype), that for float32, params, state, image, classes, outputs in float32) of a `_test` variant."""
    network, params, state, image, classes = build(name, rank)

    def compiled(dtype):
        run = jax.jit(lambda p, s, x: network.apply(p, s, x)[0])
        return run.lower(params, state, image.astype(dtype)).compile(compiler_options=QUICK[rank])

    single = compiled(np.float32)
    return compiled, single, params, state, image, classes, single(params, state, image)


@pytest.mark.parametrize("name,rank", COMPUTED)
def test_test_variants_compute(name, rank):
    _, single, params, state, image, classes, outputs = computed(name, rank)
    logits = np.asarray(outputs.logits)
    assert logits.shape == (*image.shape[:-1], classes) and logits.dtype == np.float32 and outputs.aux == ()
    assert np.isfinite(logits).all() and logits.std() > 0

    # in inference a sample's logits do not depend on its neighbours in the batch
    other = np.concatenate([image[:1], 3 * image[1:] + 1])
    np.testing.assert_array_equal(np.asarray(single(params, state, other).logits)[0], logits[0])


@pytest.mark.parametrize("name,rank", HALVES)
def test_test_variants_in_bfloat16_stay_near_float32(name, rank):
    compiled, _, params, state, image, _, outputs = computed(name, rank)
    logits = np.asarray(outputs.logits)
    # bfloat16 has 8 bits; errors of some tens of layers add up to a few per cent of the logits' spread
    low = np.asarray(compiled(jnp.bfloat16)(params, state, image.astype(jnp.bfloat16)).logits)
    assert low.dtype == np.float32
    assert np.sqrt(np.mean((low - logits) ** 2)) <= 0.1 * max(logits.std(), np.abs(logits).mean())


@pytest.mark.parametrize("name, rank", GRADIENTS)
def test_test_variants_have_finite_gradients(name, rank):
    network, params, state, image, _ = build(name, rank)

    def loss(params):
        outputs, _ = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        return sum(jnp.mean(jnp.square(a - 1)) for a in (outputs.logits, *outputs.aux))

    grads = jax.jit(jax.grad(loss)).lower(params).compile(compiler_options={} if name in SLOW else QUICK[rank])(params)
    assert grads.keys() == params.keys()
    bad = [n for n, g in grads.items() if not np.isfinite(g).all()]
    assert not bad, bad
    # some sources carry weights that nothing reads, and a ReLU of one or two units may be dead: a tenth at most
    idle = [n for n, g in grads.items() if n.endswith("weight") and not np.any(g)]
    assert len(idle) <= 0.1 * len([n for n in grads if n.endswith("weight")]), idle
