"""The figures of a validation, by hand: pooled over slices, means over the cases of volumes."""

import numpy as np
import pytest

from jaxseg.evaluate import scoring, validation
from tests.evaluate.test_tables import scored


def passed(pairs, rules):
    """A pass over (labels, truth) in one row each."""
    example = lambda i: [scoring.Example({"case": f"c{i}", "patient": "p", "row": i}, *pairs[i], (1.0,) * pairs[i][0].ndim)]
    return scoring.score(range(len(pairs)), example, rules)._replace(loss=0.25)


def test_slices_are_pooled_and_an_empty_slice_counts_in_the_mean_over_images():
    first = (np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 1]]))  # 2 right, 1 too many, 1 missed
    empty = (np.zeros((1, 4), int), np.zeros((1, 4), int))
    rules = scoring.Rules(("a",), (), scoring.Policy("one"))
    found = validation.figures(passed([first, empty], rules), rules, rank=2)
    assert found["val_loss"] == 0.25 and found["positive"] == {"a": 3}
    assert found["val_dice"] == pytest.approx(4 / 6) and found["val_iou"] == pytest.approx(2 / 4)
    assert found["val_precision"] == found["val_recall"] == pytest.approx(2 / 3)
    assert found["val_image_dice"] == pytest.approx((4 / 6 + 1) / 2)


def test_volumes_are_averaged_over_cases_and_regions_are_the_headline():
    cube = lambda *values: np.array(values).reshape(1, 1, -1)
    pairs = [(cube(1, 2, 0), cube(1, 1, 0)), (cube(2, 0, 0), cube(2, 2, 0))]
    rules = scoring.Rules(("NCR", "ED"), (("WT", (1, 2)),), scoring.Policy("nan"))
    found = validation.figures(passed(pairs, rules), rules, rank=3)
    assert found["val_dice"] == found["val_wt"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["val_ncr"] == pytest.approx(2 / 3)  # the second case has none: left out
    assert found["val_ed"] == pytest.approx((0 + 2 / 3) / 2) and found["positive"] == {"NCR": 1, "ED": 2}


def test_a_class_may_be_called_as_a_figure_is_and_each_class_of_slices_has_its_own():
    pairs = [(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 2, 2]]))]
    rules = scoring.Rules(("loss", "Dice", "spare"), (), scoring.Policy("one"))
    found = validation.figures(passed(pairs, rules), rules, rank=2)
    assert found["val_loss"] == 0.25 and found["val_dice"] == pytest.approx(1 / 3)
    assert (found["val_class_loss"], found["val_class_dice"], found["val_spare"]) == (1, 0, 0)
    assert found["positive"] == {"loss": 2, "Dice": 0}  # no mask holds "spare"


@pytest.mark.parametrize("classes", [1, 3])
def test_the_compiled_pass_over_slices_gives_the_rows_of_any_other_pass(monkeypatch, classes):
    store, found = scored(classes, monkeypatch)
    for i, row in enumerate(store.rows):
        row |= {"case": f"c{i}", "patient": f"p{i}", "slice": i}
    store.recipe = type("Recipe", (), {"size": (16, 16)})
    logits = store.images
    labels = (logits[..., 0] >= 0).astype(int) if classes == 1 else logits.argmax(-1)
    rules = scoring.Rules(store.labels, (), scoring.Policy("one"))
    ours, theirs = found.examples(store, 0.5, "one"), passed(list(zip(labels, store.masks)), rules)
    keys = ("case", "class", "tp", "fp", "fn", "tn", "dice", "iou")
    assert [[row[k] for k in keys] for row in ours.rows] == [[row[k] for k in keys] for row in theirs.rows]
    assert ours.shapes == theirs.shapes == ((16, 16),)
