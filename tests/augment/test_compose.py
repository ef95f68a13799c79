"""Laws of a composed augmentation: keys, probabilities, independence, untouched bits, refusals."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg.augment import build
from jaxseg.types import ConfigError

ICH = (
    ("hflip", 0.5, {}),
    ("vflip", 0.5, {}),
    ("rotate", 0.5, {"degrees": (-45.0, 45.0)}),
    ("scale", 0.5, {"factor": (0.8, 1.2)}),
    ("translate", 0.5, {"fraction": 0.2}),
    ("shear", 0.5, {"degrees": (-30.0, 30.0)}),
)

FLIPS = (("mirror", 0.5, {}), ("intensity", 1.0, {}), ("noise", 0.5, {}))


def batch(n=8, size=(24, 20), channels=1):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.random((n, *size, channels)), jnp.float32), jnp.asarray(rng.integers(0, 3, (n, *size)), jnp.uint8))


def test_an_empty_list_is_the_identity():
    image, mask = batch()
    new_image, new_mask = build(())(jax.random.key(0), image, mask)
    assert new_image is image and new_mask is mask


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_each_sample_is_transformed_with_the_given_probability(probability):
    n = 2000
    image = jnp.tile(jnp.arange(4.0)[None, None, :, None], (n, 2, 1, 1))
    mask = jnp.tile(jnp.arange(4)[None, :, None], (n, 1, 4))[:, :2]
    new, labels = jax.jit(build((("hflip", probability, {}), ("vflip", probability, {}))))(jax.random.key(3), image, mask)
    across, down = np.asarray(new[:, 0, 0, 0] == 3), np.asarray(labels[:, 0, 0] == 1)
    bound = 4 * np.sqrt(probability * (1 - probability) / n)  # four standard deviations
    assert abs(across.mean() - probability) <= bound and abs(down.mean() - probability) <= bound
    assert abs((across & down).mean() - probability**2) <= 4 * np.sqrt(probability**2 * (1 - probability**2) / n)


def test_samples_that_nothing_touched_keep_their_bits_and_the_others_change():
    image, mask = batch(64)
    image = (image * 1e3 + 1 / 3).at[:, 3, 4].set(jnp.nan)  # weights of 0 would spread it
    new, labels = jax.jit(build((("rotate", 0.3, {}), ("scale", 0.3, {}))))(jax.random.key(0), image, mask)
    same = np.array([np.array_equal(a, b, equal_nan=True) for a, b in zip(new, image)])
    assert 20 <= same.sum() <= 44  # 0.7 * 0.7 * 64 = 31, four standard deviations
    assert all(np.array_equal(a, b) for a, b, s in zip(labels, mask, same) if s)


def test_the_key_alone_decides():
    f, (image, mask) = jax.jit(build(ICH)), batch()
    a, b, c = f(jax.random.key(1), image, mask), f(jax.random.key(1), image, mask), f(jax.random.key(2), image, mask)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(a[0], c[0])


def test_a_sample_does_not_depend_on_its_neighbours():
    f, (image, mask) = jax.jit(build(ICH)), batch()
    other = image.at[1:].set(0.0)
    a, b = f(jax.random.key(1), image, mask), f(jax.random.key(1), other, mask.at[1:].set(0))
    np.testing.assert_array_equal(a[0][0], b[0][0])
    np.testing.assert_array_equal(a[1][0], b[1][0])


def test_equal_samples_are_moved_differently():
    image, mask = batch(1)
    new, _ = jax.jit(build((("rotate", 1.0, {}),)))(jax.random.key(1), jnp.tile(image, (8, 1, 1, 1)), jnp.tile(mask, (8, 1, 1)))
    assert len({np.asarray(x).tobytes() for x in new}) == 8


def test_jit_equals_eager():
    f, (image, mask) = build(ICH), batch(4)
    a, b = f(jax.random.key(1), image, mask), jax.jit(f)(jax.random.key(1), image, mask)
    np.testing.assert_allclose(a[0], b[0], atol=2e-5)  # positions ~20 in float32; XLA contracts multiply and add
    assert np.mean(np.asarray(a[1]) != np.asarray(b[1])) < 2e-3  # a position on a half may go either way


@pytest.mark.parametrize(
    "spec", [ICH, FLIPS, (("cutmix", 0.7, {}), ("noise", 0.5, {}), ("contrast", 0.5, {}))], ids=["ich", "flips", "mix"]
)
def test_eight_devices_give_what_one_gives(spec):
    image, mask = batch(8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    data = NamedSharding(mesh, PartitionSpec("data"))
    f = jax.jit(build(spec))
    one = f(jax.random.key(1), image, mask)
    eight = f(jax.random.key(1), jax.device_put(image, data), jax.device_put(mask, data))
    np.testing.assert_allclose(one[0], eight[0], atol=2e-5)  # as jit against eager: other fusions, same sums
    assert np.mean(np.asarray(one[1]) != np.asarray(eight[1])) < 2e-3
    if spec in (ICH, FLIPS):
        compiled = f.lower(jax.random.key(1), jax.device_put(image, data), jax.device_put(mask, data)).compile()
        assert "all-gather" not in compiled.as_text()  # no device reads another's samples


def test_works_in_a_volume():
    image, mask = batch(2, (6, 8, 7), channels=2)
    spec = (("mirror", 0.5, {}), ("rotate", 1.0, {"degrees": 30}), ("scale", 1.0, {"factor": (0.7, 1.4)}))
    new, labels = jax.jit(build(spec, rank=3))(jax.random.key(0), image, mask)
    assert new.shape == image.shape and labels.dtype == mask.dtype and bool(jnp.isfinite(new).all())


def test_mirror_reverses_each_axis_on_its_own():
    n = 512
    image = jnp.tile(jnp.arange(8.0).reshape(1, 2, 2, 2, 1), (n, 1, 1, 1, 1))
    new, _ = jax.jit(build((("mirror", 0.5, {}),), rank=3))(jax.random.key(0), image, jnp.zeros((n, 2, 2, 2), jnp.int32))
    corner = np.bincount(np.asarray(new[:, 0, 0, 0, 0]).astype(int), minlength=8)
    assert corner.min() > 30 and corner.sum() == n  # eight outcomes of 64 each, standard deviation 7.5


@pytest.mark.parametrize(
    "spec, words",
    [
        ((("rotat", 0.5, {}),), "rotate"),
        ((("rotate", 0.5, {"degree": 3}),), "degrees"),
        ((("hflip", 1.5, {}),), "0..1"),
        ((("hflip", "x", {}),), "0..1"),
        ((("hflip", 0.5),), "probability, options"),
        ((("hflip", 0.5, {"axis": "h"}),), "option"),
        ((("hflip", 0.5, None),), "{} for none"),
        ((("elastic", 0.5, {"sigma": "a"}),), "sigma='a'"),
        (((3, 0.5, {}),), "got 3"),
        ((("elastic", 0.5, {"alpha": (1, 2)}),), "number"),
        ((("intensity", 0.5, {"scale": float("nan")}),), "nan"),
        ((("gamma", 0.5, {"invert": 1}),), "invert=1"),
        ((("mirror", 0.5, {"axes": 5}),), "axes=5"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        build(spec)


def test_wrong_shapes_and_dtypes_are_refused():
    f, (image, mask) = build(ICH), batch()
    for bad in (
        (image[..., 0], mask),
        (image, mask[:, 1:]),
        (image.astype(jnp.bfloat16), mask),
        (image, mask.astype(jnp.float32)),
    ):
        with pytest.raises(ValueError, match="got image"):
            f(jax.random.key(0), *bad)
    with pytest.raises(ConfigError, match="rank=4"):
        build((), rank=4)


@dataclasses.dataclass(frozen=True)
class Brighter:
    """An augmentation of one's own."""

    by: float
    kind: ClassVar[str] = "intensity"

    def __call__(self, key, image):
        return image + self.by * jax.random.uniform(key)


def test_a_class_of_ones_own_works_as_ours_do():
    image, mask = jnp.zeros((3, 4, 4, 1)), jnp.zeros((3, 4, 4), jnp.int32)
    made, _ = build(((f"{__name__}:Brighter", 1.0, {"by": 2.0}),))(jax.random.key(0), image, mask)
    assert len(np.unique(made)) == 3 and 0 < np.min(made) and np.max(made) < 2  # another draw for each sample
    for spec, words in (
        ((Brighter, 1.0, {}), "needs by: give them as options"),
        ((Brighter, 1.0, {"by": 1.0, "bye": 2.0}), "unknown option of augmentation"),
        ((f"{__name__}:build", 1.0, {}), "must be a dataclass with kind"),
    ):
        with pytest.raises(ConfigError, match=words):
            build((spec,))
