"""Pictures show the image under the labels."""

import numpy as np
import pytest

from jaxseg.utils.pictures import COLOURS, LINE, captioned, paint, panel, to_rgb


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
    image, truth, guess = np.full((1, 5, 1), 80, np.uint8), np.array([[1, 1, 0, 1, 0]]), np.array([[1, 0, 1, 2, 0]])
    right, missed, extra, confused, nothing = panel(image, truth, guess)[0, -5:]
    assert right.argmax() == 1 and missed.argmax() == 2 and extra.argmax() == 0 and confused.argmin() == 1  # pink
    assert nothing.tolist() == [40, 40, 40]


def test_captions_enlarge_small_pictures_and_name_the_colours_of_classes():
    truth = np.zeros((32, 40), np.uint8)
    truth[4:8, 5:9] = 2
    row = panel(np.full((32, 40, 1), 80, np.uint8), truth, truth)
    shown = captioned(row, ("liver", "비장", *(f"class {k}" for k in range(300))))
    times = shown.shape[1] // row.shape[1]
    assert times == 7 and shown.shape == (32 * 7 + 2 * LINE, 160 * 7, 3)
    np.testing.assert_array_equal(shown[LINE:-LINE:7, ::7], row)
    assert shown[:LINE, 40 * 7 :].any() and (shown[-LINE:] == COLOURS[1]).all(-1).any()  # the colour of class 2
    assert captioned(panel(np.zeros((900, 600, 1), np.uint8), np.zeros((900, 600)), np.zeros((900, 600))), ()).shape[1] == 2400
