"""Whole images in one piece, whose rows eight devices share: the logits of one device."""

import numpy as np
import pytest

from jaxseg.infer import network as networks
from jaxseg.models import create_model, functional
from jaxseg.types import ConfigError

pytestmark = pytest.mark.usefixtures("unoptimised")


def windows(name: str, *, space: int, size=(16, 16, 16), **options) -> tuple[networks.Windows, tuple]:
    network, params, state = functional.split(create_model(name, num_classes=2, **options))
    forward = networks.Forward(network, num_classes=2, batch=1, space=space)
    return networks.Windows(forward, size, whole=True, overlap=0.25, blend="gaussian"), forward.place(params, state)


def test_a_whole_volume_is_one_window_and_devices_share_it():
    volume = np.random.default_rng(0).normal(size=(1, 20, 16, 9, 2)).astype(np.float32)
    found = []
    for space in (8, 1):
        application, weights = windows("unet3d_test", space=space)
        assert application._around((20, 16, 9)) == (32, 16, 16)
        found.append(np.asarray(application([weights], volume)))
    assert found[0].shape == (1, 20, 16, 9, 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_network_of_one_size_and_a_number_of_devices_that_is_not_there_are_refused():
    application, weights = windows("unetr_test", space=1, size=(32, 32, 32))
    with pytest.raises(ConfigError, match="config.infer.whole=True: got an image of spatial size .48, 32, 32"):
        application([weights], np.zeros((1, 40, 8, 8, 1), np.float32))
    with pytest.raises(ConfigError, match="config.mesh.space=3: must divide .* is 8 here; set config.mesh.space=2"):
        windows("unet3d_test", space=3)
