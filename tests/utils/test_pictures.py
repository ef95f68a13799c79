"""Pictures show the image under the labels."""

import numpy as np
import pytest

from jaxseg.utils.pictures import paint, panel, to_rgb


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3)])
def test_every_kind_of_image_becomes_rgb_of_its_size(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    rgb = to_rgb(image)
    assert rgb.shape == (6, 8, 3) and (rgb[..., 0] == (image if image.ndim == 2 else image[..., 0])).all()


def test_paint_leaves_the_background_as_it_is_and_colours_the_rest():
    rgb = np.full((4, 4, 3), 100, np.uint8)
    labels = np.zeros((4, 4), np.uint8)
    labels[1, 2] = 1
    painted = paint(rgb, labels)
    assert (painted[labels == 0] == 100).all() and painted[1, 2, 0] > painted[1, 2, 1]


def test_kinds_of_errors_have_colours_of_their_own():
    image, truth, guess = np.full((1, 3, 1), 80, np.uint8), np.array([[1, 1, 0]]), np.array([[1, 0, 1]])
    errors = panel(image, truth, guess)[:, -3:]
    assert errors[0, 0].argmax() == 1 and errors[0, 1].argmax() == 0 and errors[0, 2].argmax() == 2  # green, red, blue
