"""Lesion-wise scores of BraTS 2023: cases worked by hand, and parity with a slow program written from the rules."""

import math

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.metrics import lesions, surface
from jaxseg.types import ConfigError

GLI = lesions.CHALLENGES["GLI"]
RANDOM = np.random.default_rng(0)
COLUMNS = [
    "Labels",
    "Num_TP",
    "Num_FP",
    "Num_FN",
    "Sensitivity",
    "Specificity",
    "Legacy_Dice",
    "Legacy_HD95",
    "GT_Complete_Volume",
    "LesionWise_Score_Dice",
    "LesionWise_Score_HD95",
]


def boxes(*corners, shape=(40, 24, 24)):
    """A mask with boxes ((x, y, z), (width, height, depth))."""
    mask = np.zeros(shape, bool)
    for corner, size in corners:
        mask[tuple(slice(c, c + n) for c, n in zip(corner, size))] = True
    return mask


def score(prediction, truth, spacing=(1.0, 1.0, 1.0), rule=GLI):
    return lesions.lesion_scores(prediction, truth, spacing=spacing, **rule._asdict())


def reference(prediction, truth, spacing, dilation, threshold):
    """The rules step by step on whole arrays: label, dilate, join, compare lesion by lesion."""
    near, touching, voxel = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3)), float(np.prod(spacing))
    truth_parts, _ = ndimage.label(truth, touching)
    guess_parts, guess_count = ndimage.label(prediction, touching)
    zones, zone_count = ndimage.label(ndimage.binary_dilation(truth, near, iterations=dilation), touching)
    hits, misses, rows, seen = 0, 0, [], set()
    for zone in range(1, zone_count + 1):
        lesion = (truth_parts > 0) & (zones == zone)
        dilated = ndimage.binary_dilation(lesion, near, iterations=dilation)
        members = set(guess_parts[dilated].tolist()) - {0}
        seen |= members
        guess = np.isin(guess_parts, list(members))
        if lesion.sum() * voxel <= threshold:
            continue
        hits, misses = hits + bool(members), misses + (not members)
        dice = 2 * (lesion & guess).sum() / (lesion.sum() + guess.sum())
        rows.append((dice, area_hd95(guess, lesion, spacing) if members else 374.0))
    alarms = guess_count - len(seen)
    total = len(rows) + alarms
    return {
        "Num_TP": hits,
        "Num_FP": alarms,
        "Num_FN": misses,
        "LesionWise_Score_Dice": sum(d for d, _ in rows) / total if total else 1.0,
        "LesionWise_Score_HD95": (sum(h for _, h in rows) + 374.0 * alarms) / total if total else 0.0,
    }


def area_hd95(prediction, truth, spacing):
    """deepmind's robust Hausdorff distance by its own route: distance maps of the grid of voxel corners."""

    def elements(mask):
        padded = np.pad(mask, 1)
        code = sum(
            padded[i : padded.shape[0] - 1 + i, j : padded.shape[1] - 1 + j, k : padded.shape[2] - 1 + k].astype(int)
            << (4 * i + 2 * j + k)
            for i in (0, 1)
            for j in (0, 1)
            for k in (0, 1)
        )
        return (code > 0) & (code < 255), surface.surfels.measures(spacing)[code]

    (border, areas), (other, other_areas) = elements(prediction), elements(truth)
    found = []
    for here, there, area in ((border, other, areas), (other, border, other_areas)):
        distances = ndimage.distance_transform_edt(~there, sampling=spacing)[here]
        limit = 0.95 * area[here].sum() * (1 - 1e-12)
        found.append(min(d for d in np.unique(distances) if area[here][distances <= d].sum() >= limit))
    return max(found)


def test_the_columns_are_those_of_the_published_tool():
    labels = np.zeros((12, 12, 12), int)
    labels[2:9, 2:9, 2:9], labels[3:8, 3:8, 3:8], labels[4:7, 4:7, 4:7] = 2, 1, 3
    rows = lesions.lesion_rows(labels, labels, spacing=(1, 1, 1), challenge="MET")
    assert [row["Labels"] for row in rows] == ["WT", "TC", "ET"] and list(rows[0]) == COLUMNS
    assert all(row["LesionWise_Score_Dice"] == row["Legacy_Dice"] == 1 and row["LesionWise_Score_HD95"] == 0 for row in rows)
    assert [row["GT_Complete_Volume"] for row in rows] == [343, 125, 27]


def test_one_lesion_found_one_missed_one_false_alarm():
    # 6^3 found shifted by one (Dice 5/6, surfaces at most 1 apart), 4^3 = 64 mm^3 missed, one voxel of alarm
    truth = boxes(((2, 2, 2), (6, 6, 6)), ((18, 2, 2), (4, 4, 4)))
    guess = boxes(((3, 2, 2), (6, 6, 6)), ((36, 20, 20), (1, 1, 1)))
    row = score(guess, truth)
    assert (row["Num_TP"], row["Num_FP"], row["Num_FN"]) == (1, 1, 1)
    assert row["LesionWise_Score_Dice"] == pytest.approx((5 / 6 + 0 + 0) / 3)
    assert row["LesionWise_Score_HD95"] == pytest.approx((1 + 374 + 374) / 3)
    assert row["Legacy_Dice"] == pytest.approx(2 * 180 / (216 + 64 + 216 + 1)) and row["GT_Complete_Volume"] == 280


def test_small_lesions_are_left_out_with_their_matches_but_small_alarms_count():
    truth, guess = boxes(((2, 2, 2), (5, 5, 2))), boxes(((2, 2, 2), (5, 5, 2)))  # 50 mm^3: at the threshold
    found = score(guess, truth)
    assert (found["Num_TP"], found["Num_FP"], found["Num_FN"]) == (0, 0, 0)
    assert (found["LesionWise_Score_Dice"], found["LesionWise_Score_HD95"]) == (1, 0)  # nothing is left to score
    missed = score(np.zeros_like(guess), truth)
    assert (missed["Num_FN"], missed["LesionWise_Score_Dice"], missed["Legacy_Dice"], missed["Legacy_HD95"]) == (0, 1, 0, 374)
    assert score(guess, truth, spacing=(1, 1, 1.1))["Num_TP"] == 1  # 55 mm^3
    alarm = score(boxes(((36, 20, 20), (1, 1, 1))), truth)
    assert (alarm["Num_FP"], alarm["LesionWise_Score_Dice"], alarm["LesionWise_Score_HD95"]) == (1, 0, 374)


@pytest.mark.parametrize("gap,joined", [(6, True), (7, False)])
def test_lesions_join_where_dilations_touch(gap, joined):
    # each is dilated by three voxels: six background voxels between them leave the dilations as neighbours
    truth = boxes(((2, 2, 2), (5, 5, 5)), ((7 + gap, 2, 2), (5, 5, 5)))
    row = score(truth & (np.arange(40) < 7)[:, None, None], truth)  # only the first is found
    assert (row["Num_TP"], row["Num_FN"]) == ((1, 0) if joined else (1, 1))
    assert row["LesionWise_Score_Dice"] == pytest.approx(2 * 125 / (250 + 125) if joined else (1 + 0) / 2)


def test_a_component_over_two_lesions_counts_whole_in_both():
    truth = boxes(((2, 2, 2), (5, 5, 5)), ((20, 2, 2), (5, 5, 5)))
    guess = boxes(((2, 2, 2), (23, 5, 5)))  # 575 voxels
    row = score(guess, truth)
    assert (row["Num_TP"], row["Num_FP"]) == (2, 0) and row["LesionWise_Score_Dice"] == pytest.approx(2 * 125 / (125 + 575))


def test_empty_masks_score_as_the_tool_writes_them():
    empty, box = boxes(), boxes(((2, 2, 2), (5, 5, 5)))
    expected = {(0, 0): (1, 1, 0, 1, 0), (1, 0): (0, 0, 374, 0, 374), (0, 1): (0, 0, 374, 0, 374)}
    for (guess, truth), figures in expected.items():
        row = score(box if guess else empty, box if truth else empty)
        names = ("Sensitivity", "Legacy_Dice", "Legacy_HD95", "LesionWise_Score_Dice", "LesionWise_Score_HD95")
        assert tuple(row[name] for name in names) == figures
        assert row["Specificity"] == (1 if not guess else pytest.approx(1 - 125 / box.size))


@pytest.mark.parametrize("challenge", ["GLI", "MEN", "MET"])
def test_random_masks_score_as_the_rules_step_by_step(challenge):
    rule = lesions.CHALLENGES[challenge]
    for case in range(8):
        spacing = ((1.0, 1.0, 1.0), (0.7, 1.3, 2.5))[case % 2]
        field = ndimage.gaussian_filter(RANDOM.normal(size=(30, 26, 22)), 1.6)
        truth = field > (0.11, 0.16)[case // 2 % 2]  # from one joined lump to some ten specks
        guess = ndimage.gaussian_filter(RANDOM.normal(size=truth.shape), 1.2) * 0.4 + field > 0.17
        row, expected = score(guess, truth, spacing, rule), reference(guess, truth, spacing, *rule)
        assert expected["Num_TP"] + expected["Num_FN"] > 0
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-9), (name, case)
        assert row["Legacy_HD95"] == pytest.approx(area_hd95(guess, truth, spacing), rel=1e-9)


def test_lesions_at_the_border_and_at_corners_score_as_the_rules_step_by_step():
    truth = boxes(((0, 0, 0), (4, 4, 4)), ((4, 4, 4), (4, 4, 4)), ((36, 20, 20), (4, 4, 4)), ((20, 0, 0), (1, 1, 1)))
    guess = boxes(((4, 4, 4), (3, 4, 4)), ((22, 2, 0), (1, 1, 1)), ((35, 19, 0), (5, 5, 1)), ((33, 17, 17), (1, 1, 1)))
    for rule in set(lesions.CHALLENGES.values()):
        row, expected = score(guess, truth, (1, 2, 3), rule), reference(guess, truth, (1.0, 2.0, 3.0), *rule)
        assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_the_lesion_and_what_belongs_to_it_are_named():
    truth, guess = boxes(((2, 2, 2), (3, 3, 3))), boxes(((1, 1, 1), (1, 1, 1)), ((6, 6, 6), (1, 1, 1)), ((30, 20, 20), (2, 2, 2)))
    (lesion,), alarms = lesions.match(guess, truth, spacing=(2, 1, 1), dilation=3)
    assert (lesion.volume, lesion.predicted, lesion.dice, alarms) == (54, (1, 2), 0, 1) and math.isfinite(lesion.hd95)
    with pytest.raises(ConfigError, match="GLI"):
        lesions.lesion_rows(guess, truth, spacing=(1, 1, 1), challenge="GIL")
