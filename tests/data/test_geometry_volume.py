"""Laws of the common order of volumes: all axis orders of one scan give one array, and come back bit for bit."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from jaxseg.data.geometry import to_slices, to_volume
from jaxseg.data.records import Photo, Volume
from jaxseg.types import DataError
from tests.data.test_geometry_orientation import ALL_48, ZOOMS, _affine, _oracle, _volume


@pytest.mark.parametrize("channels", [(), (2,)])
def test_all_48_orders_of_one_scan_give_one_array_and_come_back_bitwise(channels):
    body = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5, *channels)).astype(np.int16)  # [R, A, S]
    for order, signs in ALL_48:
        turned = body.transpose(*order, *range(3, body.ndim))[tuple(slice(None, None, s) for s in signs)]
        volume = Volume(turned, _affine(order, signs), None, "memory")
        found, orientation = to_volume(volume)
        np.testing.assert_array_equal(found, body[::-1, ::-1], err_msg=f"{order} {signs}")  # R -> L, A -> P
        assert np.shares_memory(found, volume.array) and orientation.shape == volume.array.shape[:3]
        assert orientation.spacing == tuple(ZOOMS[order.index(world)] for world in range(3))
        np.testing.assert_array_equal(orientation.restore(found), volume.array)
        np.testing.assert_array_equal(
            orientation.restore(np.stack([found[..., 0], found[..., 0]], -1) if channels else found),
            np.stack([volume.array[..., 0]] * 2, -1) if channels else volume.array,
        )


def test_volumes_are_slices_turned_round_and_agree_with_nibabel():
    for order, signs in ALL_48[::5]:
        volume = _volume(_affine(order, signs))
        found, orientation = to_volume(volume)
        np.testing.assert_array_equal(found.transpose(2, 1, 0), _oracle(volume))
        slices, other = to_slices(volume)
        np.testing.assert_array_equal(found.transpose(2, 1, 0), slices)
        assert orientation.spacing == other.spacing[::-1] and orientation.axes == other.axes[::-1]


def test_brats_files_stay_in_file_order():
    volume = _volume(np.diag([-1.0, -1.0, 1.0, 1.0]))
    found, orientation = to_volume(volume)
    np.testing.assert_array_equal(found, volume.array)
    assert orientation.axes == (0, 1, 2) and not any(orientation.flips) and orientation.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["ras", "file"])
def test_other_orientations_are_nibabels_closest_canonical_and_the_files_own(name):
    body = np.random.default_rng(0).normal(size=(3, 4, 5))
    for order, signs in ALL_48[::5]:
        turned = body.transpose(order)[tuple(slice(None, None, s) for s in signs)]
        volume = Volume(turned, _affine(order, signs), None, "memory")
        found, orientation = to_volume(volume, name)
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(turned, volume.affine))
        expected, zooms = (canonical.get_fdata(), canonical.header.get_zooms()) if name == "ras" else (turned, None)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(orientation.restore(found), turned)
        np.testing.assert_allclose(orientation.spacing, zooms or nibabel.affines.voxel_sizes(volume.affine))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_photograph_is_a_volume_of_one_plane_in_the_order_of_its_file(channels):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, *channels))
    found, orientation = to_volume(Volume(picture, np.eye(4), Photo("PNG"), Path("cat.png")), "file")
    assert found.shape == (6, 4, 1, *channels) and orientation.spacing == (1.0, 1.0, 999.0)
    np.testing.assert_array_equal(found[5, 2, 0], picture[2, 5])
    np.testing.assert_array_equal(orientation.restore(found), picture)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_photographs_are_refused(shape):
    with pytest.raises(DataError, match="cat.png: is a picture of shape .4, 6.*rank=2"):
        to_volume(Volume(np.zeros(shape, np.uint8), np.eye(4), Photo("PNG"), Path("cat.png")))


def test_restore_refuses_arrays_in_the_order_of_the_file():
    _, orientation = to_volume(_volume(_affine((2, 0, 1), (1, 1, 1))))
    with pytest.raises(ValueError, match="takes"):
        orientation.restore(np.zeros((3, 4, 5)))
