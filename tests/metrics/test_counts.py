"""Counts and scores: laws, numbers worked by hand, figures of published projects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.metrics import counts, projects
from jaxseg.metrics.counts import Counts
from jaxseg.types import ConfigError

RANDOM = np.random.default_rng(0)
PREDICTION, LABELS = RANDOM.integers(0, 4, (2, 3, 5, 7))
# one hit of two, a miss, a false alarm, an empty image
HAND_P = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]])
HAND_T = np.array([[[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
HAND = counts.count(HAND_P, HAND_T, 1)


def test_counts_of_a_hand_worked_image():
    assert [c[0, 0] for c in HAND] == [1, 1, 1, 1]
    np.testing.assert_array_equal(HAND.fn[:, 0], [1, 2, 0, 0])
    np.testing.assert_array_equal(HAND.fp[:, 0], [1, 0, 1, 0])
    assert all(c.dtype == np.int32 and c.shape == (4, 1) for c in HAND)


def test_every_voxel_is_counted_once_per_class():
    total = sum(counts.count(PREDICTION, LABELS, 4))
    np.testing.assert_array_equal(total, np.full((3, 3), 35))


def test_numpy_jax_and_jit_count_alike():
    expected = counts.count(PREDICTION, LABELS, 4)
    jitted = jax.jit(counts.count, static_argnums=2)(jnp.asarray(PREDICTION), jnp.asarray(LABELS), 4)
    eager = counts.count(jnp.asarray(PREDICTION), LABELS, 4)
    for e, a, b in zip(expected, jitted, eager):
        np.testing.assert_array_equal(e, a)
        np.testing.assert_array_equal(e, b)
        assert a.dtype == jnp.int32
    for score in counts.SCORES.values():  # float32 against float64
        np.testing.assert_allclose(jax.jit(score)(jitted), score(expected), rtol=1e-6)


@pytest.mark.parametrize("classes", [counts.FEW, counts.FEW + 1, 300])
def test_histograms_of_many_classes_count_what_comparisons_count(classes):
    """Values that are no class (ignored, wrapped) count as background everywhere."""
    draw = np.random.default_rng(classes)
    labels = draw.integers(-1, classes + 2, (3, 31, 17)).astype(np.int16)
    prediction = np.where(draw.random(labels.shape) < 0.5, labels, draw.integers(0, classes, labels.shape))
    found = counts.count(prediction, labels, classes)
    jitted = jax.jit(counts.count, static_argnums=2)(jnp.asarray(prediction), jnp.asarray(labels), classes)
    for k in range(1, classes):
        p, t = (prediction == k), (labels == k)
        expected = np.stack([(p & t), (p & ~t), (~p & t), (~p & ~t)]).sum((2, 3))
        np.testing.assert_array_equal(expected, [c[:, k - 1] for c in found])
        np.testing.assert_array_equal(expected, [c[:, k - 1] for c in jitted])
    assert all(c.dtype == np.int32 for c in found)


def test_booleans_and_one_logit_mean_foreground():
    for e, g in zip(counts.count(HAND_P.astype(bool), HAND_T.astype(bool), 1), HAND):
        np.testing.assert_array_equal(e, g)
    for e, g in zip(counts.count(HAND_P, HAND_T, 2), HAND):
        np.testing.assert_array_equal(e, g)
    np.testing.assert_array_equal(counts.count(HAND_P * 3, HAND_T * 255, 1).tp, HAND.tp)


def test_images_of_weight_zero_count_nothing_and_have_no_score():
    weighted = counts.count(HAND_P, HAND_T, 1, np.array([1.0, 0.0, 1.0, 0.0]))
    assert not any(c[1, 0] or c[3, 0] for c in weighted)
    for empty in ("one", "zero", "nan"):
        assert np.isnan(counts.dice(weighted, empty)[[1, 3], 0]).all()
    assert np.isnan(counts.specificity(weighted)[1, 0])
    np.testing.assert_array_equal(counts.dice(weighted)[[0, 2]], counts.dice(HAND)[[0, 2]])


def test_a_perfect_prediction_scores_one():
    perfect = counts.count(LABELS, LABELS, 4)
    for score in (*counts.SCORES.values(), counts.specificity):
        np.testing.assert_array_equal(score(perfect), 1.0)


def test_scores_of_miss_false_alarm_and_empty_image_are_those_written_down():
    np.testing.assert_array_equal(counts.dice(HAND)[:, 0], [0.5, 0, 0, 1])
    np.testing.assert_array_equal(counts.iou(HAND)[:, 0], [1 / 3, 0, 0, 1])
    np.testing.assert_array_equal(counts.precision(HAND)[:, 0], [0.5, 0, 0, 1])
    np.testing.assert_array_equal(counts.recall(HAND)[:, 0], [0.5, 0, 0, 1])
    np.testing.assert_array_equal(counts.specificity(HAND)[:, 0], [0.5, 1, 0.75, 1])
    for score in counts.SCORES.values():
        assert score(HAND, "zero")[3, 0] == 0 and np.isnan(score(HAND, "nan")[3, 0])
    full = counts.count(np.ones((1, 2, 2), int), np.ones((1, 2, 2), int), 1)
    assert counts.specificity(full)[0, 0] == 1


def test_unknown_empty_policy_names_its_neighbours():
    with pytest.raises(ConfigError, match="zero"):
        counts.dice(HAND, "zeros")


def test_f1_of_precision_and_recall_is_dice():
    c = counts.count(PREDICTION, LABELS, 4)
    p, r = counts.precision(c), counts.recall(c)
    np.testing.assert_allclose(counts.f1(c), 2 * p * r / (p + r), rtol=1e-12)


def test_permuting_images_permutes_counts():
    order = [2, 0, 1]
    for a, b in zip(counts.count(PREDICTION[order], LABELS[order], 4), counts.count(PREDICTION, LABELS, 4)):
        np.testing.assert_array_equal(a, b[order])


def test_confusion_rows_are_truth_and_agree_with_counts(monkeypatch):
    matrix = counts.confusion(PREDICTION, LABELS, 4)
    assert matrix[1, 2] == ((LABELS == 1) & (PREDICTION == 2)).sum()
    pooled = counts.pool(counts.count(PREDICTION, LABELS, 4))
    for a, b in zip(counts.from_confusion(matrix), pooled):
        np.testing.assert_array_equal(a[1:], b)
    jitted = jax.jit(counts.confusion, static_argnums=2)(jnp.asarray(PREDICTION), jnp.asarray(LABELS), 4)
    np.testing.assert_array_equal(jitted, matrix)
    weight = np.array([1, 0, 1])
    np.testing.assert_array_equal(
        counts.confusion(PREDICTION, LABELS, 4, weight), counts.confusion(PREDICTION[[0, 2]], LABELS[[0, 2]], 4)
    )
    outside = np.where(LABELS == 3, 255, LABELS)
    assert counts.confusion(PREDICTION, outside, 4).sum() == (LABELS != 3).sum()
    monkeypatch.setattr(counts, "TOGETHER", 7)  # piece by piece
    np.testing.assert_array_equal(counts.confusion(PREDICTION, LABELS, 4), matrix)


def test_pool_and_join_of_batches_equal_one_batch():
    whole = counts.count(PREDICTION, LABELS, 4)
    parts = [counts.count(PREDICTION[i : i + 1], LABELS[i : i + 1], 4) for i in range(3)]
    for a, b in zip(counts.join(parts), whole):
        np.testing.assert_array_equal(a, b)
    assert counts.pool(whole).tp.dtype == np.int64


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="must be equal"):
        counts.count(PREDICTION[:1], LABELS, 4)


def test_the_ich_projects_scores_give_an_empty_image_one_and_a_false_alarm_recall_one():
    scores = projects.ich_per_image(HAND)
    np.testing.assert_array_equal([scores[k][3, 0] for k in scores], 1.0)
    assert scores["recall"][2, 0] == 1 and scores["precision"][1, 0] == 1  # TP = 1e-6 over itself
    assert scores["dice"][1, 0] == 2e-6 / (2e-6 + 2)
    means = projects.ich_scores(HAND)
    np.testing.assert_allclose(means["dice"], (0.5 + 1 + 2e-6 / (2e-6 + 2) + 2e-6 / (2e-6 + 1)) / 4, rtol=1e-12)


def test_an_all_negative_model_scores_as_the_haemorrhage_project_printed():
    # 444 of 500 slices empty, nothing predicted: IoU .888, precision 1.0
    truth = np.zeros((500, 1, 4), int)
    truth[:56, :, 0] = 1
    means = projects.ich_scores(counts.count(np.zeros_like(truth), truth, 1))
    np.testing.assert_allclose([means["iou"], means["precision"]], [0.888, 1.0], atol=1e-6)


def test_effisegnet_ignores_empty_truth_per_image_and_pools_precision():
    scores = projects.effisegnet_scores(HAND)
    np.testing.assert_allclose([scores["dice"], scores["iou"]], [0.25, 1 / 6])
    np.testing.assert_allclose([scores["precision"], scores["recall"]], [1 / 3, 1 / 4])
    np.testing.assert_allclose(scores["f1"], 2 / 7)


def test_class_table_averages_columns_over_all_classes_with_background():
    matrix = np.array([[6, 2], [1, 3]])
    table = projects.class_table(matrix, ["background", "tumour"])
    assert table["tumour"] == {"recall": 0.75, "specificity": 0.75, "f1": 0.6667, "precision": 0.6}
    assert table["Col Ave"]["recall"] == 0.75 and table["Col Ave"]["precision"] == round((6 / 7 + 0.6) / 2, 4)


def test_left_right_dice_has_its_epsilon_and_scores_empty_pairs_one():
    c = Counts(*(np.array(v)[None] for v in ([1, 0], [1, 0], [0, 0], [2, 4])))
    scores = projects.left_right_scores(c)
    assert scores["right"] == 1 and scores["left"] == 2 / (3 + 1e-6)
    assert scores["mean"] == (scores["left"] + 1) / 2


def test_dice_and_iou_agree_with_monai():
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    metrics = pytest.importorskip("monai.metrics", reason="parity needs the extra [parity]")
    hot = lambda a: torch.tensor(np.moveaxis(np.eye(4)[a], -1, 1))
    c = counts.count(PREDICTION, LABELS, 4)
    for ours, theirs in ((counts.dice, metrics.compute_dice), (counts.iou, metrics.compute_iou)):
        np.testing.assert_allclose(ours(c), theirs(hot(PREDICTION), hot(LABELS), include_background=False), rtol=1e-6)
