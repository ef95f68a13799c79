"""The 3-D families keep odd sizes; their branches read what they say; merged kernels give the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import ForwardContext, attention
from jaxseg.models import create_model, functional
from jaxseg.models.dual_branch import large_kernel, vit
from jaxseg.models.dual_branch.shuffle import channel_shuffle
from jaxseg.types import ConfigError


def volume(channels, size=32):
    return np.random.default_rng(0).normal(size=(1, *(size,) * 3, channels)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def freed():
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", ["unet3d_2modal_s", "unet3d_stride_s", "dualbranch_14_convnext_s", "dualbranch_07_unet_m"])
def test_odd_sizes_keep_their_size(name):
    model = create_model(name, abstract=True)
    network, params, state = functional.split(model)
    image = jax.ShapeDtypeStruct((1, 48, 40, 33, 2), jnp.float32)
    assert jax.eval_shape(lambda p, s, x: network.apply(p, s, x)[0].logits, params, state, image).shape == (1, 48, 40, 33, 4)


@pytest.mark.parametrize("name", ["unet3d_xs", "unet3d_stride_xs", "roi_unet3d_small"])
def test_a_faithful_bottleneck_stays_at_an_eighth_with_the_same_parameters(name):
    sizes = []
    for faithful in (False, True):
        model = create_model(name, abstract=True, faithful_bottleneck=faithful)
        network, params, state = functional.split(model)
        image = jax.ShapeDtypeStruct((1, 32, 32, 32, model.in_channels), jnp.float32)

        def deepest(p, s, x, network=network):
            net = network.merge(p, s)
            x = net.stem(x)
            for down in net.downs:
                x = down(x)
            return x

        sizes.append((jax.eval_shape(deepest, params, state, image).shape[1], functional.parameter_count(model)))
        assert jax.eval_shape(lambda p, s, x, n=network: n.apply(p, s, x)[0].logits, params, state, image).shape[1:4] == (32,) * 3
    assert (sizes[0][0], sizes[1][0]) == (2, 4) and sizes[0][1] == sizes[1][1]


@pytest.mark.parametrize("size, pad", [((4, 6, 2), False), ((3, 5, 4), True)])
def test_patches_are_put_back_where_they_came_from(size, pad):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    np.testing.assert_array_equal(attention.apply_to_unfolded_patches(x, [lambda t, run: t], 2, pad=pad), x)


def test_layers_over_patches_see_only_the_same_place_of_other_patches():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 1)).astype(np.float32)
    seen = attention.apply_to_unfolded_patches(jnp.asarray(x), [lambda t, run: t * 0 + t.mean(1, keepdims=True)], 2, pad=True)
    whole = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 1), (0, 0)))
    for place in np.ndindex(2, 2, 2):
        part = (slice(None), *(slice(p, None, 2) for p in place))
        mean = whole[part].mean((1, 2, 3), keepdims=True)
        np.testing.assert_allclose(seen[part], np.broadcast_to(mean, seen[part].shape), atol=1e-6)  # sums of 12 float32


def test_the_later_vit_block_has_the_parameters_of_its_formula_and_fits_every_vit_way():
    c = 8
    layer = 2 * 2 * c + 4 * (c * c + c) + (2 * c * c + 2 * c) + (2 * c * c + c)
    conv = lambda a, b, k: k**3 * a * b + 2 * b
    block = vit.PatchViT(c, rank=3, rngs=nnx.Rngs(0))
    expected = conv(c, c, 3) + 2 * conv(c, c, 1) + 2 * layer + conv(2 * c, c, 3)
    assert sum(v.size for v in jax.tree.leaves(nnx.state(block, nnx.Param))) == expected
    model = create_model(
        "dualbranch_07_unet_test",
        abstract=True,
        deep_down="vit_patches",
        downs=(("large_ffn2", "stride", "vit_patches"), ("stride",) * 3),
    )
    network, params, state = functional.split(model)
    image = jax.ShapeDtypeStruct((1, 40, 33, 32, 2), jnp.float32)
    assert jax.eval_shape(lambda p, s, x: network.apply(p, s, x)[0].logits, params, state, image).shape == (1, 40, 33, 32, 4)


def test_deep_supervision_comes_finest_first_in_training_only():
    model = create_model("nnunet_plain", abstract=True)
    network, params, state = functional.split(model)
    image = jax.ShapeDtypeStruct((1, 64, 64, 64, 4), jnp.float32)
    shapes = jax.eval_shape(lambda p, s, x: network.apply(p, s, x, ForwardContext(train=True, key=None))[0], params, state, image)
    assert [a.shape[1] for a in shapes.aux] == [32, 16, 8, 4] and shapes.logits.shape == (1, 64, 64, 64, 3)
    assert jax.eval_shape(lambda p, s, x: network.apply(p, s, x)[0], params, state, image).aux == ()


@pytest.mark.parametrize("channels, flair, t1ce", [(2, 1, 0), (4, 3, 1)])
def test_the_first_branch_reads_flair_and_the_second_t1ce(channels, flair, t1ce):
    model = create_model("dualbranch_03_unet_test", in_channels=channels)
    assert model.channels == (flair, t1ce)
    assert any(b.conv.dilation == (5, 5, 5) for b in model.branches[0].downs[0].blocks)  # the dilated branch
    image = volume(channels, 16)
    base = np.asarray(model(image))
    for channel in range(channels):
        changed = image.copy()
        changed[..., channel] += 1
        assert np.any(np.asarray(model(changed)) != base) == (channel in (flair, t1ce))


def test_other_channel_numbers_are_refused():
    with pytest.raises(ConfigError, match="t1ce, flair"):
        create_model("dualbranch_01_unet_xs", in_channels=3, abstract=True)


def test_merged_kernels_give_the_same_logits():
    block = large_kernel.ParallelConv(4, kernel=7, small=3, rank=3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for part in (block.large, block.small):
        norm = part.norm
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value[...] = jnp.asarray(rng.uniform(0.5, 1.5, 4), jnp.float32)
    x = jnp.asarray(rng.normal(size=(1, 9, 9, 9, 4)), jnp.float32)
    before = np.asarray(block(x))
    assert large_kernel.merge(block) == 1 and large_kernel.merge(block) == 0
    # two sums of 343 and 27 products become one
    np.testing.assert_allclose(np.asarray(block(x)), before, atol=1e-5 * before.std(), rtol=1e-5)
    with pytest.raises(ValueError, match="merge"):
        block(x, ForwardContext(train=True))


def test_a_merged_branch_gives_the_same_features():
    model = create_model("dualbranch_07_unet_test")
    down = model.branches[0].downs[0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 8, 4)), jnp.float32)
    before, count = np.asarray(down(x)), functional.parameter_count(model)
    assert large_kernel.merge(model) == 1 and functional.parameter_count(model) < count
    np.testing.assert_allclose(np.asarray(down(x)), before, atol=1e-5 * before.std(), rtol=1e-5)


def test_merging_a_network_saves_the_small_kernels():
    """Each of the C channels of a block loses a 3^3 kernel and two norms (weight and bias each), and gains a bias."""
    model = create_model("dualbranch_04_unet_xs")
    before = functional.parameter_count(model)
    assert large_kernel.merge(model) == 2  # two levels of branch A, of 16 and 32 channels, 1.5 times as many within
    assert before - functional.parameter_count(model) == (24 + 48) * (3**3 + 4 - 1)


def test_shuffling_by_the_other_factor_undoes_it():
    x = jnp.arange(12.0)[None]
    assert channel_shuffle(x, 2)[0].tolist()[:4] == [0, 6, 1, 7]
    np.testing.assert_array_equal(channel_shuffle(channel_shuffle(x, 2), 6), x)


def test_modality_factors_lie_between_zero_and_one():
    model = create_model("quadbranch_4modal_attention_unet_test")
    parts = [jnp.full((1, 2, 2, 2, 8), 1.0 + i) for i in range(4)]
    out = model.modality_attention[1](parts)
    ratios = [float((o / p).mean()) for o, p in zip(out, parts)]
    assert all(0 < r < 1 for r in ratios)
