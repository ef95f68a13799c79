"""From stored images to what a network sees: floats, mean and deviation."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.image import standardise, to_float
from jaxseg.types import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


def test_integers_are_divided_by_255_and_floats_are_left():
    assert np.asarray(to_float(jnp.array([0, 255], jnp.uint8))).tolist() == [0.0, 1.0]
    assert np.asarray(to_float(jnp.array([-1.5, 3.0]))).tolist() == [-1.5, 3.0]


def test_each_channel_loses_its_mean_and_deviation():
    image = np.random.default_rng(0).random((2, 3, 4, 3)).astype(np.float32)
    expected = (image - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(standardise(jnp.asarray(image), MEAN, STD), expected, rtol=1e-6, atol=1e-6)


def test_without_mean_and_deviation_nothing_happens():
    image = jnp.ones((2, 2, 1), jnp.bfloat16)
    assert standardise(image, (), ()) is image and standardise(image, (0.5,), (2.0,)).dtype == jnp.bfloat16


@pytest.mark.parametrize("mean, std", [(MEAN, ()), ((), STD), (MEAN[:1], STD[:1]), (MEAN, (1.0, 0.0, 1.0))])
def test_numbers_that_do_not_fit_the_channels_are_refused(mean, std):
    with pytest.raises(ConfigError, match="3 channels"):
        standardise(jnp.ones((2, 2, 3)), mean, std)
