"""Scores of volumes by region: write-back of labels, policies for empty masks, counts, summaries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.metrics import counts, surface
from jaxseg.metrics.regions import (
    BRATS,
    case_scores,
    class_table,
    labels_from_regions,
    nested_order,
    region_counts,
    region_masks,
    summarize_cases,
)
from jaxseg.types import ConfigError

CLASSES = ("NCR", "ED", "ET")
RANDOM = np.random.default_rng(0)
OVERLAP = ("dice", "iou", "precision", "recall")


def tumour(shift=0, enhancing=True):
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[3 + shift : 13 + shift, 3:13, 3:13] = 2
    labels[4 + shift : 10 + shift, 4:10, 4:10] = 1
    if enhancing:
        labels[5 + shift : 8 + shift, 5:8, 5:8] = 3
    return labels


def scores(prediction, truth, **options):
    return case_scores(prediction, truth, **dict(regions=BRATS, classes=CLASSES, spacing=(1.0, 1.0, 1.0)) | options)


def test_regions_are_unions_of_classes():
    labels = RANDOM.integers(0, 5, (6, 5, 4))
    masks = region_masks(labels, BRATS)
    assert masks.shape == (6, 5, 4, 3) and masks.dtype == bool
    np.testing.assert_array_equal(masks[..., 0], (labels > 0) & (labels < 4))
    np.testing.assert_array_equal(masks[..., 1], (labels == 1) | (labels == 3))
    np.testing.assert_array_equal(masks, jax.jit(lambda x: region_masks(x, BRATS))(jnp.asarray(labels)))


def test_labels_survive_the_way_through_regions():
    labels = tumour()
    with_cavity = np.where(np.arange(20)[:, None, None] > 16, np.uint8(4), labels)
    for truth, regions in ((labels, BRATS), (with_cavity, (*BRATS, ("RC", (4,))))):
        assert nested_order(regions) == (2, 1, 3, 4)[: len(regions)]
        table = class_table(regions)
        masks = region_masks(truth, regions).astype(np.float32)
        np.testing.assert_array_equal(labels_from_regions(masks, table), truth)
        on_device = jax.jit(labels_from_regions, static_argnums=1)(jnp.asarray(masks), table)
        np.testing.assert_array_equal(on_device, truth)
        assert on_device.dtype == np.uint8


def test_later_regions_win_and_one_half_is_not_enough():
    probabilities = np.array([[0.6, 0.4, 0.4], [0.9, 0.6, 0.1], [0.1, 0.2, 0.7], [0.5, 0.5, 0.5], [0.9, 0.9, 0.9]])
    np.testing.assert_array_equal(labels_from_regions(probabilities, class_table(BRATS)), [2, 1, 3, 0, 3])


def test_regions_that_overlap_give_the_class_of_their_combination():
    both = (("A", (1, 3)), ("B", (2, 3)))  # 3 is in both
    assert nested_order(both) == () and class_table(both) == (0, 1, 2, 3)
    truth = RANDOM.integers(0, 4, (5, 6, 7))
    np.testing.assert_array_equal(labels_from_regions(region_masks(truth, both).astype(np.float32), class_table(both)), truth)
    three = (("A", (1, 4)), ("B", (2, 4)), ("C", (3,)))  # nobody is in A and C, or in all three
    assert class_table(three) == (0, 1, 2, 4, 3, 1, 2, 4)  # of A and C the lower class, of all three the class in most of them
    reverse = (("ET", (3,)), ("TC", (1, 3)), ("WT", (1, 2, 3)))  # any order, where the masks agree with each other
    labels = tumour()
    np.testing.assert_array_equal(
        labels_from_regions(region_masks(labels, reverse).astype(np.float32), class_table(reverse)), labels
    )


def test_regions_that_do_not_determine_labels_are_refused():
    with pytest.raises(ConfigError, match="classes 1 and 2 lie in the same regions .whole.*a region with only one"):
        class_table((("whole", (1, 2, 3)), ("core", (3,))))
    class_table((("whole", (1, 2, 3)), ("first", (1,)), ("core", (3,))))  # the remedy
    with pytest.raises(ValueError, match="must have 8, one for each combination"):
        labels_from_regions(np.zeros((2, 2, 3)), (0, 1, 2))
    with pytest.raises(ConfigError, match="rename"):
        scores(tumour(), tumour(), regions=(("ED", (1, 2)),))


def test_scores_worked_by_hand():
    # WT: cubes of 1000 voxels shifted by two; core 216 by two; enhancing 27 by two
    row = scores(tumour(2), tumour(), spacing=(2.0, 1.0, 1.0))
    assert [row[f"dice_{name}"] for name in ("WT", "TC", "ET")] == pytest.approx([0.8, 4 / 6, 1 / 3])
    assert (row["tp_WT"], row["fp_WT"], row["fn_WT"]) == (800, 200, 200) and row["iou_WT"] == pytest.approx(2 / 3)
    assert row["precision_WT"] == row["recall_WT"] == 0.8
    assert row["specificity_WT"] == pytest.approx((5760 - 1200) / 4760)
    assert (row["hd95_WT"], row["hd95_TC"], row["hd95_ET"], row["hd95_mean"]) == (4, 4, 4, 4)
    assert row["truth_ml_WT"] == row["predicted_ml_WT"] == 2.0
    assert row["dice_mean"] == pytest.approx((0.8 + 2 / 3 + 1 / 3) / 3)


def test_a_perfect_prediction_is_perfect():
    row = scores(tumour(), tumour())
    assert all(
        row[f"{score}_{name}"] == 1
        for score in (*OVERLAP, "specificity", "nsd")
        for name in ("WT", "TC", "ET", "NCR", "ED", "mean")
    )
    assert all(row[f"hd95_{name}"] == 0 == row[f"fp_{name}"] for name in ("WT", "TC", "ET", "NCR", "ED"))


@pytest.mark.parametrize(
    "policy,both,one",
    [
        ({}, (1, 0, 1), (0, math.hypot(40, 18, 16), 0)),
        ({"missed": 374.0}, (1, 0, 1), (0, 374, 0)),
        ({"empty": "nan"}, (math.nan,) * 3, (0, math.hypot(40, 18, 16), 0)),
        ({"empty": "nan", "missed": math.inf}, (math.nan,) * 3, (0, math.inf, 0)),
    ],
)
def test_empty_regions_score_by_the_policy(policy, both, one):
    here, none = tumour(), tumour(enhancing=False)
    for prediction, truth, expected in ((none, none, both), (here, none, one), (none, here, one)):
        row = scores(prediction, truth, spacing=(2.0, 1.0, 1.0), **policy)
        np.testing.assert_allclose([row["dice_ET"], row["hd95_ET"], row["nsd_ET"]], expected)
        np.testing.assert_allclose([row[f"{name}_ET"] for name in OVERLAP], expected[0])
        assert row["dice_WT"] == 1 == row["nsd_WT"]
    nothing = scores(np.zeros_like(here), np.zeros_like(here), spacing=(2.0, 1.0, 1.0), **policy)
    np.testing.assert_allclose([nothing["dice_mean"], nothing["hd95_mean"], nothing["nsd_mean"]], both)


@pytest.mark.parametrize("subvoxel", [False, True])
def test_random_labels_score_as_each_mask_alone(subvoxel):
    prediction, truth = RANDOM.integers(0, 4, (2, 9, 8, 7)) * (RANDOM.random((2, 9, 8, 7)) > 0.6)
    spacing = (0.7, 1.3, 2.5)
    row = scores(prediction, truth, spacing=spacing, tolerance=1.0, subvoxel=subvoxel)
    groups = (*BRATS, ("NCR", (1,)), ("ED", (2,)))
    for name, classes in groups:
        p, t = np.isin(prediction, classes), np.isin(truth, classes)
        alone = counts.count(p[None], t[None], 1)
        assert [row[f"{key}_{name}"] for key in ("tp", "fp", "fn")] == [c.item() for c in alone[:3]]
        assert row[f"dice_{name}"] == counts.dice(alone).item() and row[f"specificity_{name}"] == counts.specificity(alone).item()
        assert row[f"hd95_{name}"] == surface.hd95(p, t, spacing, subvoxel=subvoxel)
        assert row[f"nsd_{name}"] == surface.nsd(p, t, 1.0, spacing, subvoxel=subvoxel)
    assert row["hd95_mean"] == pytest.approx(np.mean([row[f"hd95_{name}"] for name, _ in BRATS]))


def test_summed_confusion_matrices_give_the_counts_of_all_volumes():
    pairs = RANDOM.integers(0, 4, (3, 2, 6, 5, 4))
    matrix = sum(counts.confusion(p[None], t[None], 4) for p, t in pairs)
    pooled = region_counts(matrix, BRATS)
    rows = [scores(p, t, surface=False) for p, t in pairs]
    for r, (name, _) in enumerate(BRATS):
        assert [c[r] for c in pooled[:3]] == [sum(row[f"{key}_{name}"] for row in rows) for key in ("tp", "fp", "fn")]
        assert sum(c[r] for c in pooled) == 3 * pairs[0, 0].size
    given = counts.confusion(pairs[0, :1], pairs[0, 1:], 4)
    assert scores(*pairs[0], surface=False, confusion=given) == rows[0] and "hd95_WT" not in rows[0]


def test_labels_without_a_class_are_refused():
    with pytest.raises(ValueError, match="outside 0..3"):
        scores(np.full((4, 4, 4), 4), np.zeros((4, 4, 4), int))


def test_a_summary_leaves_undefined_scores_out_and_says_of_how_many():
    none = tumour(enhancing=False)
    rows = [
        scores(tumour(2), tumour(), empty="nan") | {"case": "a"},
        scores(none, none, empty="nan") | {"case": "b"},
        scores(tumour(), tumour(), empty="nan") | {"case": "c"},
    ]
    summary = summarize_cases(rows)
    assert summary["dice_ET"]["n"] == 2 and summary["dice_ET"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert summary["dice_WT"] == pytest.approx({"mean": 2.8 / 3, "std": np.std([0.8, 1, 1]), "median": 1, "n": 3})
    assert summary["dice_mean"]["mean"] == pytest.approx(((0.8 + 2 / 3 + 1 / 3) / 3 + 1 + 1) / 3)
    assert "tp_WT" not in summary and "case" not in summary and "truth_ml_WT" in summary
    assert summarize_cases([]) == {}
