"""How much of each structure there is: worked by hand, and beside scipy's measurements."""

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.metrics import sizes


def test_volumes_and_means_are_those_of_scipy_and_of_the_affines_voxels():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (6, 5, 4))
    images = {
        "t1": random.normal(size=labels.shape).astype(np.float32),
        "t2": random.integers(-900, 900, labels.shape).astype(np.int16),
    }
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 2.0, 3.0])  # oblique: a voxel has 3 mm3
    rows = sizes.measured(labels, images, {"core": (1, 3), "1": (1,), "none": (9,)}, affine=affine)
    core = np.isin(labels, (1, 3))
    assert [row["structure"] for row in rows] == ["core", "1", "none"]
    assert rows[0]["voxels"] == core.sum() and rows[0]["volume_ml"] == pytest.approx(core.sum() * 3 / 1000)
    for name, image in images.items():
        assert rows[0][f"mean_intensity_{name}"] == pytest.approx(ndimage.mean(image, core), rel=1e-6)
        assert rows[1][f"mean_intensity_{name}"] == pytest.approx(ndimage.mean(image, labels, 1), rel=1e-6)
    assert rows[2]["voxels"] == 0 and rows[2]["volume_ml"] == 0 and rows[2]["mean_intensity_t1"] is None
    assert all(row["area_mm2"] is None for row in rows)


def test_a_single_slice_has_an_area_and_a_picture_pixels_alone():
    labels = np.zeros((4, 3, 1), int)
    labels[:2] = 1
    (row,) = sizes.measured(labels, {"": labels * 7.0}, {"a": (1,)}, affine=np.diag([0.5, 0.25, 5.0, 1.0]))
    assert row["area_mm2"] == pytest.approx(6 * 0.125) and row["volume_ml"] == pytest.approx(6 * 0.625 / 1000)
    assert row["mean_intensity"] == 7.0
    (row,) = sizes.measured(labels[..., 0], {"": labels[..., 0]}, {"a": (1,)})
    assert row == {"structure": "a", "voxels": 6, "volume_ml": None, "area_mm2": None, "mean_intensity": 1.0}
    with pytest.raises(ValueError, match="they must be equal"):
        sizes.measured(labels, {"": labels[..., 0]}, {"a": (1,)})
