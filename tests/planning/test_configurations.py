"""Patches, batches and networks are those that nnU-Net's own planner gives for these fingerprints (MIC-DKFZ/nnUNet@0e49508)."""

import numpy as np
import pytest

from jaxseg.planning import configurations, topology
from jaxseg.planning.fingerprint import Fingerprint
from jaxseg.types import ConfigError, DataError


def fingerprint(shape, spacing, count: int, kept: float = 1.0) -> Fingerprint:
    """Of cases that are all alike."""
    alike = lambda values: np.tile(values, (count, 1))
    return Fingerprint(alike(shape), alike(np.array(spacing, float)), np.full(count, kept), 1, (), (), len(shape) == 2)


def plan(found, *, outputs=3, memory_gb=8.0, rules=("zscore",)):
    return configurations.make(found, rules=rules, outputs=outputs, memory_gb=memory_gb)


HALVED, FLAT = (2, 2, 2), (1, 2, 2)
DEEP = (32, 64, 128, 256, 320, 320)
ROWS = {  # shape, mm, cases, outputs, GB: patch and batch of 3d_fullres, of 2d, patch of 3d_lowres, widths, strides, kernels of 1
    "hippocampus": ((36, 50, 35), (1, 1, 1), 260, 3, 8, (40, 56, 40), 9, (56, 40), 366, None, DEEP[:4], (HALVED,) * 3, 0),
    "brain": ((140, 171, 136), (1, 1, 1), 484, 4, 8, (128, 160, 112), 2, (192, 160), 105, None)
    + (DEEP, (HALVED,) * 4 + ((2, 2, 1),), 0),
    "heart": ((10, 256, 216), (10, 1.5625, 1.5625), 200, 4, 8, (10, 256, 224), 7, (256, 224), 56, None)
    + (DEEP, (FLAT, FLAT, HALVED, FLAT, FLAT), 2),
    "body": ((432, 512, 512), (1, 0.77, 0.77), 131, 3, 8, (128, 128, 128), 2, (512, 512), 12, (128, 128, 128))
    + (DEEP, (HALVED,) * 5, 0),
    "body, more memory": ((432, 512, 512), (1, 0.77, 0.77), 131, 3, 24, (160, 224, 192), 2, (512, 512), 37, (160, 224, 192))
    + (DEEP, (HALVED,) * 5, 0),
    "coarse second axis": ((320, 20, 320), (0.6, 3.6, 0.6), 32, 3, 8, (20, 320, 256), 2, (320, 320), 32, None)
    + ((*DEEP, 320), (FLAT, FLAT, HALVED, HALVED, FLAT, FLAT), 2),
}


@pytest.mark.parametrize("name", ROWS)
def test_configurations_are_those_of_nnunet(name):
    shape, spacing, count, outputs, memory, patch, batch, flat_patch, flat_batch, lowres, widths, strides, ones = ROWS[name]
    found = plan(fingerprint(shape, spacing, count), outputs=outputs, memory_gb=memory)
    volumes, planes = found.volumes, found.planes
    assert (volumes.patch, volumes.batch, planes.patch, planes.batch) == (patch, batch, flat_patch, flat_batch)
    assert (found.lowres and found.lowres.patch) == lowres and volumes.batch_dice == (lowres is not None) and planes.batch_dice
    assert volumes.widths == widths and volumes.strides == ((1, 1, 1), *strides)
    assert volumes.kernels == ((1, 3, 3),) * ones + ((3, 3, 3),) * (len(widths) - ones)
    order = (1, 0, 2) if name == "coarse second axis" else (0, 1, 2)
    assert found.forward == order and volumes.spacing == tuple(float(spacing[axis]) for axis in order)


def test_the_first_stage_of_a_cascade_is_that_of_nnunet():
    """nnUNetv2_plan_experiment -gpu_memory_target 0.3 (nnunetv2 2.8.1) for six volumes, each a voxel longer than the last."""
    shapes = np.array([(60, 140, 150 + i) for i in range(6)])
    found = plan(Fingerprint(shapes, np.tile((2.0, 1.0, 1.0), (6, 1)), np.ones(6), 1, (), (), False), memory_gb=0.3)
    full, lowres = found.volumes, found.lowres
    assert lowres.spacing == pytest.approx((3.305695264543504, 1.652847632271752, 1.652847632271752), rel=1e-14)
    assert (full.batch_dice, lowres.batch_dice) == (True, False)
    for one in (full, lowres):
        assert (one.patch, one.batch, one.widths) == ((24, 56, 56), 2, (32, 64, 128, 256))
        assert one.strides == ((1, 1, 1), FLAT, HALVED, HALVED) and one.kernels == ((1, 3, 3), *((3, 3, 3),) * 3)


@pytest.mark.parametrize(
    "spacing, patch, outputs, values",
    [
        ((2.6, 0.91, 1.04), (19, 53, 51), 3, 16_620_800),
        ((1, 1), (300, 211), 5, 22_650_880),
        ((5, 0.8, 0.8), (12, 200, 180), 2, 152_474_112),
    ],
)
def test_memory_is_counted_as_by_the_network_of_nnunet(spacing, patch, outputs, values):
    """Values of PlainConvUNet.compute_conv_feature_map_size (dynamic-network-architectures)."""
    found = topology.topology(spacing, patch)
    widths = tuple(min(32 * 2**i, {2: 512, 3: 320}[len(patch)]) for i in range(len(found.strides)))
    assert topology.feature_values(found, widths, outputs) == values


def test_the_coarsest_axis_has_the_tenth_percentile_of_its_spacings():
    spacings = np.array([[z, 1.0, 1.2] for z in (4.0, 5.0, 6.0, 9.0, 10.0)])
    found = Fingerprint(np.tile((12, 200, 180), (5, 1)), spacings, np.ones(5), 1, (), (), False)
    wanted, coarse = configurations.target_spacing(found)
    assert coarse and wanted == pytest.approx([4.4, 1.0, 1.2])  # 4 + 0.4 * (5 - 4)
    thick = Fingerprint(np.tile((80, 200, 180), (5, 1)), spacings, np.ones(5), 1, (), (), False)
    wanted, coarse = configurations.target_spacing(thick)  # as long as the others: no few thick slices
    assert not coarse and wanted == pytest.approx([6.0, 1.0, 1.2])
    spacings[:2, 0] = 0.8, 0.9
    found = Fingerprint(np.tile((12, 200, 180), (5, 1)), spacings, np.ones(5), 1, (), (), False)
    wanted, _ = configurations.target_spacing(found)  # the 10th percentile, 0.84, is finer than the others
    assert wanted == pytest.approx([1.20001, 1.0, 1.2], abs=1e-9)


def test_zeros_stay_out_of_z_scores_where_they_are_many():
    rules = ("zscore", "ct_zscore")
    assert plan(fingerprint((36, 50, 35), (1, 1, 1), 9, kept=0.74), rules=rules).rules == ("zscore_nonzero", "ct_zscore")
    assert plan(fingerprint((36, 50, 35), (1, 1, 1), 9, kept=0.75), rules=rules).rules == rules


def test_pictures_and_single_slices_have_no_network_of_volumes():
    for found in (plan(fingerprint((300, 211), (1, 1), 50)), plan(fingerprint((1, 300, 211), (5, 1, 1), 50))):
        assert found.volumes is None and found.planes.patch == (320, 224)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(
        ConfigError, match="config.plan.memory_gb=1e-06: too little for a U-Net of two stages; set a larger value"
    ):
        plan(fingerprint((36, 50, 35), (1, 1, 1), 9), memory_gb=1e-6)
    with pytest.raises(DataError, match="6 x 7 voxels; a U-Net needs at least 12 along one axis, or 8 along two"):
        plan(fingerprint((5, 6, 7), (1, 1, 1), 9))
    assert plan(fingerprint((1, 8, 8), (5, 1, 1), 9)).planes.patch == (8, 8)


def test_weights_of_outputs_halve_and_sum_to_one():
    assert topology.output_weights(5) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15, 0))
    assert topology.output_weights(1) == (1.0,)
