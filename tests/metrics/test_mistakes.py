"""Why a segmentation is wrong: small pictures with one cause each, and the sum of all causes."""

import numpy as np
import pytest

from jaxseg.metrics.mistakes import CAUSES, mistakes


def picture(*boxes, shape=(20, 24)):
    """Labels with boxes (class, rows, columns)."""
    labels = np.zeros(shape, np.uint8)
    for k, rows, columns in boxes:
        labels[slice(*rows), slice(*columns)] = k
    return labels


TRUTH = picture((1, (4, 10), (4, 10)))
CASES = {
    "missed": (picture(), TRUTH),
    "false alarm": (picture((1, (12, 16), (12, 18))), TRUTH * 0),
    "fragment": (TRUTH | picture((1, (14, 18), (14, 20))), TRUTH),
    "boundary": (picture((1, (4, 10), (4, 8))), TRUTH),
    "wrong class": (picture((2, (4, 10), (4, 10))), TRUTH),
}


@pytest.mark.parametrize("cause", CASES)
def test_the_cause_is_recognised(cause):
    labels, truth = CASES[cause]
    found = mistakes(labels, truth)
    assert found.main == cause and found.named == (cause,)
    assert found.wrong == np.count_nonzero(labels != truth) == found.voxels[CAUSES.index(cause)]
    assert found.border == 0


def test_a_perfect_picture_has_no_cause():
    assert mistakes(TRUTH, TRUTH).main == "" and mistakes(TRUTH, TRUTH).named == ()


def test_every_wrong_voxel_has_one_cause_in_noise_of_any_rank():
    random = np.random.default_rng(0)
    for shape in ((30, 31), (12, 13, 14)):
        labels, truth = (np.where(random.random(shape) < 0.9, 0, random.integers(1, 4, shape)) for _ in range(2))
        found = mistakes(labels, truth)
        assert found.wrong == np.count_nonzero(labels != truth)
        assert found.voxels[4] == np.count_nonzero((labels != truth) & (labels > 0) & (truth > 0))


def test_what_reaches_the_edge_of_the_image_is_said_and_a_single_slice_has_no_edge_across():
    truth = picture((1, (0, 6), (3, 9)))
    found = mistakes(truth * 0, truth)
    assert found.border == found.wrong and found.named == ("missed", "touching the border")
    assert mistakes(TRUTH[..., None] * 0, TRUTH[..., None]).border == 0


def test_two_causes_are_named_by_their_share():
    truth = TRUTH | picture((1, (14, 18), (14, 20)))  # two structures, one missed, the other a little too small
    found = mistakes(picture((1, (4, 10), (4, 9))), truth)
    assert found.named == ("missed", "boundary") and found.voxels[:4] == (24, 0, 0, 6)
