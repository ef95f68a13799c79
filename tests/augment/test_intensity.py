"""Intensity transforms against scipy, PyTorch, colorsys and numbers worked by hand."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxseg.augment import build, intensity
from jaxseg.types import ConfigError

KEY = jax.random.key(7)


def picture(size=(12, 10), channels=3, seed=0):
    return np.random.default_rng(seed).random((*size, channels)).astype(np.float32)


@pytest.mark.parametrize("size", [(12, 15), (8, 9, 7)])
def test_blur_equals_scipy(size):
    image = picture(size, 2)
    found = jax.jit(intensity.Blur(sigma=0.9))(KEY, jnp.asarray(image))
    expected = scipy.ndimage.gaussian_filter(image, (0.9,) * len(size) + (0,))
    np.testing.assert_allclose(found, expected, atol=1e-6)  # float32 sums of ~9 numbers per axis


@pytest.mark.parametrize("size", [(12, 15), (8, 9, 7)])
@pytest.mark.parametrize("factor", [0.5, 0.73])
def test_lowres_equals_pytorchs_nearest_down_and_linear_up(size, factor):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    image = picture(size, 2)
    found = jax.jit(intensity.LowResolution(factor=factor))(KEY, jnp.asarray(image))
    x = torch.tensor(np.moveaxis(image, -1, 0))[None]
    small = torch.nn.functional.interpolate(x, [round(n * factor) for n in size], mode="nearest-exact")
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    expected = torch.nn.functional.interpolate(small, size, mode=mode)[0].numpy()
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, -1), atol=2e-6)


def test_lowres_in_the_plane_is_that_of_each_slice():
    image = jnp.asarray(picture((8, 9, 7), 2))
    found = jax.jit(intensity.LowResolution(factor=0.5, axes=("h", "w")))(KEY, image)
    plain = jax.jit(intensity.LowResolution(factor=0.5))
    each = [plain(KEY, one) for one in image]
    np.testing.assert_allclose(found, jnp.stack(each), atol=1e-6)
    with pytest.raises(ConfigError, match="lowres axes=.'d',.: must be some of h, w at rank 2"):
        jax.jit(intensity.LowResolution(axes=("d",)))(KEY, image[0])


@pytest.mark.parametrize("make", [intensity.Blur, intensity.LowResolution])
def test_per_channel_zero_leaves_every_channel(make):
    image = jnp.asarray(picture())
    np.testing.assert_array_equal(jax.jit(make(per_channel=0.0))(KEY, image), image)


def test_equalize_worked_by_hand():
    image = jnp.asarray([[0, 0], [1, 3]], jnp.float32)[..., None] / 255
    found = jax.jit(intensity.Equalize())(KEY, image)[..., 0] * 255
    np.testing.assert_allclose(found, [[0, 0], [128, 255]], atol=1e-4)  # 255 * (3 - 2) / (4 - 2) = 127.5, halves to even
    flat = jnp.full((3, 3, 1), 77 / 255)
    np.testing.assert_allclose(jax.jit(intensity.Equalize())(KEY, flat), flat, atol=1e-7)


def test_equalize_makes_three_channels_grey_and_spreads_them():
    image = picture((40, 40)) * 0.2 + 0.4
    found = np.asarray(jax.jit(intensity.Equalize())(KEY, jnp.asarray(image)))
    assert np.ptp(found, axis=-1).max() == 0 and found.min() == 0 and found.max() == 1
    level = np.round(image @ np.array([0.299, 0.587, 0.114]) * 255).astype(int)
    below = (level.reshape(-1)[None] <= level.reshape(-1)[:, None]).sum(1)  # cumulative count, the slow way
    first = (level == level.min()).sum()
    expected = np.round(255 * (below - first) / (level.size - first)).reshape(level.shape) / 255
    assert np.mean(np.abs(found[..., 0] - expected) > 1e-6) < 0.01  # grey values within rounding of a half may go either way


def test_hue_equals_colorsys():
    image = picture()
    image[0, 0] = 0.3  # no hue at all
    for turns in (0.0, 0.13, -0.4):
        found = np.asarray(jax.jit(intensity.turn_hue)(jnp.asarray(image), jnp.float32(turns)))
        for pixel, new in zip(image.reshape(-1, 3), found.reshape(-1, 3)):
            h, s, v = colorsys.rgb_to_hsv(*map(float, pixel))
            np.testing.assert_allclose(new, colorsys.hsv_to_rgb((h + turns) % 1, s, v), atol=2e-6)


@pytest.mark.parametrize(
    "name, formula",
    [
        ("brightness", lambda x, grey: 1.4 * x),
        ("contrast", lambda x, grey: 1.4 * x - 0.4 * grey.mean()),
        ("saturation", lambda x, grey: 1.4 * x - 0.4 * grey[..., None]),
    ],
)
def test_a_single_jitter_is_its_formula(name, formula):
    image = picture()
    expected = np.clip(formula(image, image @ np.array([0.299, 0.587, 0.114])), 0, 1)
    np.testing.assert_allclose(
        jax.jit(intensity.ColourJitter(**{name: (1.4, 1.4)}))(KEY, jnp.asarray(image)), expected, atol=1e-6
    )


def test_jitter_applies_its_operations_in_either_order():
    image = picture(channels=1)
    bright, flat = lambda x: np.clip(1.8 * x, 0, 1), lambda x: np.clip(0.5 * x + 0.5 * x.mean(), 0, 1)
    outcomes = [flat(bright(image)), bright(flat(image))]
    jitter = intensity.ColourJitter(brightness=(1.8, 1.8), contrast=(0.5, 0.5))
    found = jax.jit(jax.vmap(jitter, (0, None)))(jax.random.split(KEY, 40), jnp.asarray(image))
    which = [[np.allclose(f, o, atol=1e-6) for o in outcomes] for f in np.asarray(found)]
    assert all(sum(w) == 1 for w in which) and 8 <= sum(w[0] for w in which) <= 32  # 20 expected, four standard deviations


def test_jitter_of_numbers_is_a_range_around_one():
    jitter = intensity.ColourJitter(brightness=(0.6, 1.6), contrast=0.2, saturation=0.1, hue=0.01)
    ranges = jitter._ranges()
    assert ranges == {"brightness": (0.6, 1.6), "contrast": (0.8, 1.2), "saturation": (0.9, 1.1), "hue": (-0.01, 0.01)}


def test_gamma_worked_by_hand():
    image = jnp.asarray([0.0, 1.0, 2.0, 4.0]).reshape(2, 2, 1)
    plain = jax.jit(intensity.Gamma(gamma=2.0, keep_statistics=False))
    np.testing.assert_allclose(plain(KEY, image).reshape(-1), [0, 0.25, 1, 4], atol=1e-6)
    inverted = jax.jit(intensity.Gamma(gamma=2.0, keep_statistics=False, invert=True))
    np.testing.assert_allclose(inverted(KEY, image).reshape(-1), [0, 1.75, 3, 4], atol=1e-6)


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_keeps_mean_and_deviation_of_each_channel(invert):
    image = 3 * jnp.asarray(picture()) - 1
    found = jax.jit(intensity.Gamma(invert=invert))(KEY, image)
    assert not np.allclose(found, image, atol=1e-2)
    np.testing.assert_allclose(found.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1)), image.std((0, 1)), atol=1e-5)


def test_signed_gamma_is_odd_and_keeps_signs():
    image = 4 * jnp.asarray(picture()) - 2
    f = jax.jit(intensity.SignedGamma(gamma=1.3))
    np.testing.assert_allclose(f(KEY, image), np.sign(image) * np.abs(image) ** 1.3, rtol=1e-5)
    np.testing.assert_array_equal(f(KEY, -image), -f(KEY, image))


def test_contrast_stays_in_the_range_and_brightness_is_one_factor_per_channel():
    image = jnp.asarray(picture())
    found = jax.jit(intensity.Contrast(factor=1.8))(KEY, image)
    mean = image.mean((0, 1))
    expected = jnp.clip(mean + 1.8 * (image - mean), image.min((0, 1)), image.max((0, 1)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    ratio = np.asarray(jax.jit(intensity.Brightness())(KEY, image) / image).reshape(-1, 3)
    assert np.ptp(ratio, axis=0).max() < 1e-5 and np.ptp(ratio[0]) > 1e-3


def test_shift_is_one_line_for_all_channels():
    image = picture()
    found = np.asarray(jax.jit(intensity.Shift())(KEY, jnp.asarray(image)))
    slope, start = np.polyfit(image.reshape(-1), found.reshape(-1), 1)
    np.testing.assert_allclose(found, slope * image + start, atol=1e-5)


def test_noise_has_the_deviation_drawn():
    found = jax.jit(intensity.Noise(sigma=0.3))(KEY, jnp.zeros((100, 100, 1)))
    assert abs(float(found.std()) - 0.3) < 4 * 0.3 / np.sqrt(2 * 10_000) and abs(float(found.mean())) < 4 * 0.3 / 100


def test_balanced_factors_fall_below_one_as_often_as_above():
    draws = np.asarray(intensity._factor(KEY, (0.7, 1.5), True, (4000,)))
    assert abs((draws < 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert draws.min() >= 0.7 and draws.max() <= 1.5
    assert abs(draws[draws < 1].mean() - 0.85) < 0.01 and abs(draws[draws > 1].mean() - 1.25) < 0.015  # uniform on each side


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("noise", {"sigma": -0.1}, "not be negative"),
        ("blur", {"sigma": 0.0}, "above 0"),
        ("blur", {"per_channel": 2}, "0..1"),
        ("lowres", {"factor": (0.5, 2.0)}, "not exceed 1"),
        ("gamma", {"gamma": 0}, "above 0"),
        ("intensity", {"scale": -1.0}, "not negative"),
        ("colour_jitter", {"hue": 0.7}, "-0.5..0.5"),
        ("colour_jitter", {"contrast": (-1.0, 1.0)}, "not be negative"),
        ("colour_jitter", {"brightness": -2.0}, "not be negative"),
        ("colour_jitter", {"bright": 1}, "brightness"),
    ],
)
def test_options_that_break_a_rule_are_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        build(((name, 0.5, options),))


@pytest.mark.parametrize("name, options", [("colour_jitter", {"hue": 0.1}), ("equalize", {})])
def test_colours_are_refused_where_there_are_none(name, options):
    channels = 1 if options else 2
    with pytest.raises(ConfigError, match="channels"):
        jax.eval_shape(build(((name, 0.5, options),)), KEY, jnp.zeros((2, 8, 8, channels)), jnp.zeros((2, 8, 8), jnp.int32))
