"""Laws of the common slice order, with nibabel.orientations as the independent oracle."""

import itertools

import nibabel
import numpy as np
import pytest

from jaxseg.data.geometry import to_slices
from jaxseg.data.records import Photo, Volume
from jaxseg.types import DataError

ALL_48 = [(p, s) for p in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]
SHAPE, ZOOMS = (3, 4, 5), (0.5, 0.75, 4.0)


def _affine(order, signs) -> np.ndarray:
    """File axis i points along world axis order[i], in the direction signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (world, sign) in enumerate(zip(order, signs)):
        affine[world, i] = sign * ZOOMS[i]
    affine[:3, 3] = (11.0, -22.0, 33.0)
    return affine


def _rotation(seed: int, degrees: float) -> np.ndarray:
    axis = np.random.default_rng(seed).normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def _volume(affine, channels=()) -> Volume:
    array = np.random.default_rng(0).integers(-1000, 1000, (*SHAPE, *channels)).astype(np.int16)
    return Volume(np.asfortranarray(array), affine, None, "memory")


def _oracle(volume) -> np.ndarray:
    """nibabel's reorientation to LPS, then [X, Y, Z] -> [Z, Y, X]."""
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(volume.affine), nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    )
    moved = nibabel.apply_orientation(volume.array, change)
    return moved.transpose(2, 1, 0, *range(3, moved.ndim))


@pytest.mark.parametrize("channels", [(), (2,)])
@pytest.mark.fault("P2")
def test_all_48_orders_agree_with_nibabel_and_come_back_bitwise(channels):
    for order, signs in ALL_48:
        volume = _volume(_affine(order, signs), channels)
        slices, orientation = to_slices(volume)
        np.testing.assert_array_equal(slices, _oracle(volume), err_msg=f"{order} {signs}")
        restored = orientation.restore(slices)
        assert restored.dtype == volume.array.dtype
        np.testing.assert_array_equal(restored, volume.array)
        assert orientation.spacing == tuple(ZOOMS[order.index(world)] for world in (2, 1, 0))


@pytest.mark.fault("P2")
def test_oblique_volumes_agree_with_nibabel_and_come_back_bitwise():
    checked = 0
    for seed, (order, signs) in enumerate(ALL_48):
        for degrees in (7.0, 25.0, 40.0):  # below 45 degrees about any axis the nearest axes are not in doubt
            volume = _volume(_rotation(seed, degrees) @ _affine(order, signs))
            slices, orientation = to_slices(volume)
            np.testing.assert_array_equal(slices, _oracle(volume))
            np.testing.assert_array_equal(orientation.restore(slices), volume.array)
            assert sorted(orientation.axes) == [0, 1, 2]
            np.testing.assert_allclose(orientation.spacing, [ZOOMS[order.index(w)] for w in (2, 1, 0)], rtol=1e-12)
            checked += 1
    assert checked == 144


def test_at_45_degrees_and_under_shear_every_axis_is_used_once():
    tilt = np.eye(4)
    c = np.sqrt(0.5)
    tilt[:3, :3] = [[c, -c, 0], [c, c, 0], [0, 0, 1]]
    shear = np.eye(4)
    shear[1, 2] = 1.5  # slices that slide further than they climb
    for affine in (tilt, shear, tilt @ shear):
        slices, orientation = to_slices(_volume(affine))
        assert sorted(orientation.axes) == [0, 1, 2]
        np.testing.assert_array_equal(orientation.restore(slices), _volume(affine).array)


def test_voxels_are_where_the_order_says():
    """Z climbs (S grows), rows go back (A falls), columns go to the left (R falls), by the affine itself."""
    for order, signs in ALL_48:
        affine = _affine(order, signs)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        moved, _ = to_slices(Volume(world, affine, None, "memory"))  # [Z, Y, X, 3]
        assert (np.diff(moved[..., 2], axis=0) > 0).all()
        assert (np.diff(moved[..., 1], axis=1) < 0).all()
        assert (np.diff(moved[..., 0], axis=2) < 0).all()


def test_scores_with_a_class_axis_are_restored_with_it():
    volume = _volume(_affine((2, 0, 1), (1, -1, -1)))
    slices, orientation = to_slices(volume)
    scores = np.stack([slices, slices + 1], -1)
    np.testing.assert_array_equal(orientation.restore(scores)[..., 1], volume.array + 1)


def test_file_index_finds_the_slice_in_the_file():
    for order, signs in ALL_48:
        volume = _volume(_affine(order, signs))
        slices, orientation = to_slices(volume)
        for k in range(len(slices)):
            own = np.take(volume.array, orientation.file_index(k), axis=orientation.axes[0])
            assert sorted(own.ravel()) == sorted(slices[k].ravel())


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_a_photograph_is_one_slice_in_its_own_order(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    slices, orientation = to_slices(Volume(array, np.eye(4), Photo("PNG"), "memory"))
    assert slices.shape == (1, *shape) and orientation.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(orientation.restore(slices), array)
    assert orientation.restore(np.zeros((1, 4, 6, 2))).shape == (4, 6, 2)


def test_restore_refuses_slices_of_another_shape():
    _, orientation = to_slices(_volume(np.eye(4)))
    with pytest.raises(ValueError, match="takes"):
        orientation.restore(np.zeros((5, 3, 4)))


# ------------------------------------------------------------------ planes
ACQUIRED = {  # plane -> the axes of a scan [slices, rows, columns] as directions in RAS, 4 mm between slices of 1 mm pixels
    "axial": [(0, 0, 1), (0, -1, 0), (-1, 0, 0)],
    "coronal": [(0, -1, 0), (0, 0, -1), (-1, 0, 0)],
    "sagittal": [(-1, 0, 0), (0, 0, -1), (0, -1, 0)],
}


def _acquired(plane, shape=(5, 30, 40), sizes=(4.0, 1, 1)):
    array = np.arange(np.prod(shape)).reshape(shape)
    affine = np.eye(4)
    affine[:3, :3] = np.array(ACQUIRED[plane], float).T * sizes
    return Volume(array, affine, None, "scan.nii.gz")


@pytest.mark.parametrize("plane", ACQUIRED)
def test_slices_in_the_plane_of_the_scan_are_those_that_were_acquired(plane):
    volume = _acquired(plane)
    slices, orientation = to_slices(volume, plane)
    np.testing.assert_array_equal(slices, volume.array)
    assert orientation.spacing == (4.0, 1.0, 1.0)
    np.testing.assert_array_equal(orientation.restore(slices), volume.array)
    turned = Volume(volume.array.transpose(2, 0, 1)[::-1], volume.affine @ MOVED(volume.array.shape), None, "b")
    np.testing.assert_array_equal(to_slices(turned, plane)[0], volume.array)


def MOVED(shape):
    """From the indices of `array.transpose(2, 0, 1)[::-1]` to those of the array."""
    return np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, shape[2] - 1], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
@pytest.mark.parametrize("shape, sizes", [((5, 30, 40), (4.0, 1, 1)), ((1, 96, 96), (1.0, 1, 1)), ((3, 30, 40), (1.0, 1, 1))])
def test_a_scan_that_is_thin_in_its_axial_plane_is_refused_and_the_remedy_works(plane, shape, sizes):
    volume = _acquired(plane, shape, sizes)
    with pytest.raises(DataError, match=f"set data.plane='{plane}'") as caught:
        to_slices(volume, "")
    assert caught.value.code == "DATA_PLANE"
    assert to_slices(volume, plane)[0].shape == shape
    assert to_slices(volume, "axial")[0].shape[1:] != shape[1:]  # all the same


def test_axial_and_even_scans_are_cut_without_a_word():
    for plane, shape, sizes in (
        ("axial", (5, 30, 40), (4.0, 1, 1)),
        ("axial", (1, 96, 96), (1.0, 1, 1)),
        ("sagittal", (20, 30, 40), (1.0,) * 3),
    ):
        volume = _acquired(plane, shape, sizes)
        np.testing.assert_array_equal(to_slices(volume, "")[0], to_slices(volume)[0])
