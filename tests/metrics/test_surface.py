"""Surface distances: golden values, empty masks, spacing, symmetry, parity with MONAI."""

import math

import numpy as np
import pytest

from jaxseg.metrics import surface, surfels
from jaxseg.types import ConfigError


def cube(low, high, shift=0):
    mask = np.zeros((32, 32, 32), bool)
    mask[low + shift : high + shift, low:high, low:high] = True
    return mask


A, B, C, NONE = cube(8, 18), cube(8, 18, 2), cube(9, 17), np.zeros((32, 32, 32), bool)
RANDOM = np.random.default_rng(0)


def test_golden_values_of_shifted_and_shrunken_cubes():
    # measured on deepmind's surface-distance, seg-metrics and MONAI, 7 digits
    close = lambda found, golden: np.testing.assert_allclose(found, golden, atol=1e-5)
    close([surface.hd(B, A), surface.hd95(B, A), surface.hd95(B, A, (2, 1, 1))], [2.0, 2.0, 4.0])
    close([surface.hd(C, A), surface.hd95(C, A), surface.hd95(C, A, (2, 1, 1))], [1.7320508, 1.4142136, 2.2360680])
    close([surface.hd95(B, A, subvoxel=True), surface.hd95(C, A, subvoxel=True)], [2.0, 1.4142136])
    close([surface.hd95(B, A, (2, 1, 1), subvoxel=True), surface.hd95(C, A, (2, 1, 1), subvoxel=True)], [4.0, 2.2360680])
    close([surface.nsd(B, A, 1.0), surface.nsd(B, A, 1.0, subvoxel=True)], [0.72131, 0.7228825])
    close([surface.nsd(C, A, 1.0), surface.nsd(C, A, 1.0, subvoxel=True)], [0.86735, 0.9150379])
    close(surface.directed_means(B, A, subvoxel=True), [0.6797952, 0.6797952])
    close(surface.directed_means(C, A, subvoxel=True), [1.0, 1.0583238])
    close([surface.assd(B, A), surface.assd(C, A)], [0.688525, 1.058190])


def test_identical_masks_have_no_distance():
    assert surface.hd(A, A) == surface.assd(A, A, (3, 1, 1)) == 0 and surface.nsd(A, A, 0.0, subvoxel=True) == 1


def test_single_voxels_are_as_far_as_their_centres():
    p, t = np.zeros((2, 9, 9), bool)
    p[2, 1], t[5, 5] = True, True
    assert surface.hd(p, t) == 5 and surface.hd95(p, t, (2.0, 0.5)) == math.hypot(6, 2) == surface.assd(p, t, (2.0, 0.5))
    assert surface.nsd(p, t, 4.9) == 0 and surface.nsd(p, t, 5.0) == 1


def test_swapping_the_masks_changes_nothing():
    p, t = RANDOM.random((2, 9, 8, 7)) > 0.8
    for metric in (surface.hd, surface.hd95, surface.assd, lambda a, b, s: surface.nsd(a, b, 1.0, s, subvoxel=True)):
        np.testing.assert_allclose(metric(p, t, (2, 1, 0.5)), metric(t, p, (2, 1, 0.5)), rtol=1e-12)


def test_pooled_percentile_is_that_of_both_directions_together():
    p, t = RANDOM.random((2, 12, 12)) > 0.9
    a, b = surface.surface_distances(p, t)
    assert surface.hd95(p, t, pooled=True) == np.percentile(np.concatenate([a, b]), 95)
    assert surface.hd95(p, t) == max(np.percentile(a, 95), np.percentile(b, 95))


def test_the_border_of_the_image_is_a_surface():
    full = np.ones((5, 6), bool)
    assert len(surface.surface_distances(full, full)[0]) == 5 * 6 - 3 * 4


@pytest.mark.parametrize(
    "policy,both,one",
    [
        ({}, 0, math.sqrt(3) * 32),
        ({"missed": 374.0}, 0, 374),
        ({"empty": "nan"}, math.nan, math.sqrt(3) * 32),
        ({"empty": "nan", "missed": math.inf}, math.nan, math.inf),
    ],
)
def test_empty_masks_score_by_the_policy(policy, both, one):
    for metric in (
        surface.hd,
        surface.hd95,
        surface.assd,
        lambda *masks, **p: surface.directed_means(*masks, **p)[0],
        lambda *masks, **p: surface.hd95_and_nsd(*masks, 1.0, **p)[0],
    ):
        np.testing.assert_allclose(
            [metric(NONE, NONE, **policy), metric(A, NONE, **policy), metric(NONE, A, **policy)], [both, one, one]
        )
    empty = policy.get("empty", "one")
    for subvoxel in (False, True):
        np.testing.assert_allclose(surface.nsd(NONE, NONE, 1.0, subvoxel=subvoxel, empty=empty), 1.0 if both == 0 else math.nan)
        assert surface.nsd(A, NONE, 1.0, subvoxel=subvoxel, empty=empty) == 0 == surface.nsd(NONE, A, 1e9, empty=empty)


def test_a_missed_structure_is_as_far_as_the_grid_is_long_in_millimetres():
    assert surface.hd(A, NONE, (2.0, 1.0, 1.0)) == 32 * math.sqrt(6)
    corners = np.zeros((2, 4, 5, 6), bool)
    corners[0, 0, 0, 0], corners[1, -1, -1, -1] = True, True
    spacing = (0.7, 1.3, 3.0)
    missed = surface.hd95(corners[0], np.zeros((4, 5, 6), bool), spacing)
    assert missed == math.hypot(4 * 0.7, 5 * 1.3, 6 * 3.0) > surface.hd95(*corners, spacing)  # no error is farther than a miss


def test_wrong_arguments_name_the_rule():
    for arguments, rule in (
        ((A, A[:9]), "must be equal"),
        ((A, A, (1.0, 1.0)), "3 positive"),
        ((A, A, (1.0, 0.0, 1.0)), "positive"),
        ((A, A, (1.0, math.nan, 1.0)), "positive"),
    ):
        with pytest.raises(ValueError, match=rule):
            surface.hd(*arguments)
    with pytest.raises(ConfigError, match="nan, one"):
        surface.hd(A, A, empty="zero")


def test_a_large_box_has_the_area_of_its_faces():
    # every edge and corner of the box is cut off: 10 x 6 x 4 of mm (1, 2, 3); faces lose half a voxel at each rim
    box = np.ones((10, 6, 4), bool)
    a, b, c = 10.0, 12.0, 12.0
    x, y, z = a - 1, b - 2, c - 3
    rims = 4 * (x * math.hypot(1, 1.5) + y * math.hypot(0.5, 1.5) + z * math.hypot(0.5, 1))
    corners = 8 * 0.5 * math.sqrt((1 * 1.5) ** 2 + (0.5 * 1.5) ** 2 + (0.5 * 1) ** 2)
    expected = 2 * (x * y + y * z + x * z) + rims + corners
    np.testing.assert_allclose(surfels.elements(box, (1.0, 2.0, 3.0))[1].sum(), expected, rtol=1e-12)


def test_complementary_codes_have_the_same_surface():
    for spacing in ((1.0, 2.0), (1.0, 2.0, 0.5)):
        table = surfels.measures(spacing)
        np.testing.assert_allclose(table, table[::-1], atol=1e-12)


SPACINGS = {2: (0.7, 1.9), 3: (2.5, 1.0, 0.6)}


@pytest.fixture(scope="module")
def monai():
    pytest.importorskip("torch", reason="parity needs the extra [parity]")
    return pytest.importorskip("monai.metrics", reason="parity needs the extra [parity]")


@pytest.mark.parametrize("shape", [(11, 14), (8, 9, 10)])
def test_distances_agree_with_monai_on_random_masks(monai, shape):
    import torch
    from scipy.ndimage import gaussian_filter

    spacing = SPACINGS[len(shape)]
    for sigma in (0.0, 1.0):  # noise has every code of a cell, blobs have smooth surfaces
        p, t = (gaussian_filter(RANDOM.normal(size=shape), sigma) > 0 for _ in range(2))
        args = dict(y_pred=torch.tensor(p)[None, None], y=torch.tensor(t)[None, None], include_background=True, spacing=spacing)
        close = lambda found, expected: np.testing.assert_allclose(found, expected.item(), rtol=1e-5)  # float32 theirs
        close(surface.hd(p, t, spacing), monai.compute_hausdorff_distance(**args))
        close(surface.hd95(p, t, spacing), monai.compute_hausdorff_distance(**args, percentile=95))
        close(surface.assd(p, t, spacing), monai.compute_average_surface_distance(**args, symmetric=True))
        for subvoxel in (False, True):
            close(
                surface.nsd(p, t, 0.8, spacing, subvoxel=subvoxel),
                monai.compute_surface_dice(**args, class_thresholds=[0.8], use_subvoxels=subvoxel),
            )


def test_the_table_of_areas_agrees_with_monai_at_every_code(monai):
    from monai.metrics.utils import ENCODING_KERNEL, get_code_to_measure_table

    for spacing in ((1.0, 1.0, 1.0), (2.5, 1.0, 0.6), (1.0, 1.0), (0.7, 1.9)):
        theirs = np.asarray(get_code_to_measure_table(spacing)[0])
        bits = np.asarray(ENCODING_KERNEL[len(spacing)]).reshape(-1)  # the weight of each voxel, in our bit order
        ours = surfels.measures(spacing)
        for code in range(len(ours)):
            other = sum(int(weight) for bit, weight in enumerate(bits) if code >> bit & 1)
            np.testing.assert_allclose(ours[code], theirs[other], atol=1e-5, err_msg=f"{code:b}")
