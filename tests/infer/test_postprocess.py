"""Post-processing steps and their choice on validation, against scipy and against laws."""

import json

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.infer import postprocess
from jaxseg.metrics import counts
from jaxseg.types import ConfigError
from tests import shares

FULL = ndimage.generate_binary_structure(3, 3)


def random_labels(seed: int, shape=(14, 12, 10), classes: int = 3) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(classes, *shape)), (0, 1, 1, 1))
    return np.where(field.max(0) > 0.2, field.argmax(0) + 1, 0).astype(np.uint8)


def ball(centre, radius: float, shape=(20, 20, 20)) -> np.ndarray:
    return sum((i - c) ** 2 for i, c in zip(np.indices(shape), centre)) <= radius**2


STEPS = [
    ("keep_largest", {}),
    ("keep_largest", {"classes": [2]}),
    ("keep_largest", {"classes": [1, 3], "connectivity": 1}),
    ("remove_small", {"min_voxels": 6}),
    ("remove_small", {"min_voxels": 9, "classes": [1]}),
    ("fill_holes", {}),
    ("fill_holes", {"classes": [1, 2]}),
    ("relabel_small", {"from_class": 3, "to": 1, "below": 10**6}),
    ("relabel_small", {"from_class": 3, "to": 1, "below": 2}),
]


@pytest.mark.parametrize("name,options", STEPS)
def test_a_second_time_changes_nothing_and_only_holes_become_foreground(name, options):
    for seed in range(4):
        labels = random_labels(seed)
        kept = labels.copy()
        once = postprocess.apply(labels, [{"step": name, "options": options}])
        np.testing.assert_array_equal(labels, kept)  # the input is the caller's
        np.testing.assert_array_equal(postprocess.apply(once, [{"step": name, "options": options}]), once)
        assert once.dtype == labels.dtype and once.shape == labels.shape
        if name == "fill_holes":
            assert (once[labels > 0] == labels[labels > 0]).all()
        else:
            assert not (once[labels == 0] > 0).any()
        changed = once != labels
        if "classes" in options and name != "fill_holes":
            assert np.isin(labels[changed], options["classes"]).all()


def test_no_foreground_stays_as_it_is():
    empty = np.zeros((5, 6, 7), np.uint8)
    for name, options in STEPS:
        np.testing.assert_array_equal(postprocess.apply(empty, [{"step": name, "options": options}]), empty)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_components_are_scipys(connectivity):
    structure = ndimage.generate_binary_structure(3, connectivity)
    for seed in range(4):
        labels = random_labels(seed)
        numbers, count = ndimage.label(labels > 0, structure)
        sizes = ndimage.sum_labels(labels > 0, numbers, range(1, count + 1))
        largest = np.where(numbers == 1 + np.argmax(sizes), labels, 0)
        np.testing.assert_array_equal(postprocess.keep_largest(labels, connectivity=connectivity), largest)
        for least in (2, 5, int(sizes.max()), int(sizes.max()) + 1):
            big = np.isin(numbers, 1 + np.flatnonzero(sizes >= least))
            ours = postprocess.remove_small(labels, least, connectivity=connectivity)
            np.testing.assert_array_equal(ours, np.where(big, labels, 0))


def test_classes_together_are_one_mask_and_others_stay():
    labels = np.zeros((9, 5), np.uint8)
    labels[0:2, 0:2], labels[2:4, 0:2], labels[6:8, 0:2], labels[6:8, 3:5] = 1, 3, 1, 2
    ours = postprocess.keep_largest(labels, (1, 3))
    np.testing.assert_array_equal(ours, np.where((np.arange(9)[:, None] >= 6) & (labels == 1), 0, labels))
    alone = postprocess.keep_largest(labels, (1,))
    np.testing.assert_array_equal(alone, ours)  # equally large: the first stays
    np.testing.assert_array_equal(postprocess.keep_largest(labels, (1,), ties="all"), labels)


def test_a_run_that_goes_on_from_another_keeps_its_steps(tmp_path):
    steps, said = [{"step": "keep_largest", "options": {"classes": [1]}}], []
    (tmp_path / "first" / "checkpoints" / "0").mkdir(parents=True)
    (tmp_path / "first" / postprocess.FILE).write_text(json.dumps(steps))
    (tmp_path / "run").mkdir()
    for _ in range(2):
        postprocess.keep_steps(tmp_path / "first" / "checkpoints" / "0", tmp_path / "run", said.append)
    assert postprocess.read_steps(tmp_path / "run") == steps and len(said) == 1 and "1 steps" in said[0]


def test_a_size_in_mm_counts_the_voxels_volume():
    labels = random_labels(0)
    for spacing, voxels in (((1, 1, 1), 12), ((0.5, 2, 3), 4), ((0.3, 0.3, 0.3), 445)):
        np.testing.assert_array_equal(
            postprocess.remove_small(labels, min_mm3=12, spacing=spacing), postprocess.remove_small(labels, voxels)
        )
    step = {"step": "remove_small", "options": {"min_mm3": 12.0}}
    np.testing.assert_array_equal(postprocess.apply(labels, [step], (0.5, 2, 3)), postprocess.remove_small(labels, 4))


def test_holes_are_scipys_and_take_the_class_that_touches_them_most():
    for seed in range(4):
        labels = random_labels(seed)
        labels[3:8, 3:8, 3:8][1:-1, 1:-1, 1:-1] = 0
        filled = postprocess.fill_holes(labels)
        np.testing.assert_array_equal(filled > 0, ndimage.binary_fill_holes(labels > 0))
    shell = np.where(ball((10, 10, 10), 6), 2, 0)
    shell[ball((10, 10, 10), 3)] = 0
    shell[10, 10, 13:] = np.where(shell[10, 10, 13:] == 2, 3, 0)
    np.testing.assert_array_equal(postprocess.fill_holes(shell)[ball((10, 10, 10), 3)], 2)
    nested = np.where(ball((10, 10, 10), 6), 3, 0)
    nested[ball((10, 10, 10), 4)] = 1
    nested[ball((10, 10, 10), 2)] = 0
    assert (postprocess.fill_holes(nested, (3,))[ball((10, 10, 10), 2)] == 1).all()  # enclosed by 3, touched by 1
    opened = nested.copy()
    opened[10, 10, :] = 0
    np.testing.assert_array_equal(postprocess.fill_holes(opened), opened)


def test_few_voxels_of_a_class_become_another():
    labels = random_labels(1)
    few = np.count_nonzero(labels == 3)
    np.testing.assert_array_equal(postprocess.relabel_small(labels, 3, 1, few), labels)
    np.testing.assert_array_equal(postprocess.relabel_small(labels, 3, 1, few + 1), np.where(labels == 3, 1, labels))


def mean_dice(predictions, truths, groups, empty="one") -> np.ndarray:
    return np.array(
        [
            np.mean(
                [
                    counts.dice(counts.count(np.isin(p, g)[None], np.isin(t, g)[None], 1), empty)
                    for p, t in zip(predictions, truths)
                ]
            )
            for g in groups
        ]
    )


def tumours(count: int = 4):
    """Truth: a ball of 1 with a core of 3; prediction: the same with what post-processing mends."""
    rng = np.random.default_rng(5)
    predictions, truths = [], []
    for case in range(count):
        truth = np.zeros((20, 20, 20), np.uint8)
        centre = rng.integers(8, 12, 3)
        truth[ball(centre, 5)] = 1
        if case:
            truth[ball(centre, 3)] = 3
        guess = truth.copy()
        guess[ball(centre, 1)] = 0  # a hole
        guess[0:2, 0:2, 0:2] = 1  # a false alarm
        guess[-3:, -1, -1] = 2  # a class that is nowhere
        if not case:
            guess[tuple(centre)] = 3  # three voxels of a core that is not there
            guess[tuple(centre + (0, 0, 3))] = guess[tuple(centre + (0, 3, 0))] = 3
        predictions.append(guess)
        truths.append(truth)
    return predictions, truths


def test_choosing_finds_what_each_case_lacks_and_writes_json():
    predictions, truths = tumours()
    steps = postprocess.choose(predictions, truths, num_classes=4, min_voxels=(3, 30), relabel=((3, 1, 2), (3, 1, 40)))
    names = [s["step"] for s in steps]
    assert names == ["keep_largest", "relabel_small", "fill_holes"]
    assert steps[0]["options"] == {"classes": [1, 2, 3]} and steps[1]["options"]["below"] == 40
    assert all(a < b for a, b in (s["dice"] for s in steps)) and steps[0]["dice"][1] == steps[1]["dice"][0]
    again = json.loads(json.dumps(steps))
    for prediction, truth in zip(predictions, truths):
        np.testing.assert_array_equal(postprocess.apply(prediction, again), truth)


def test_processes_that_share_the_cases_choose_what_one_chooses():
    predictions, truths = tumours()
    options = {"num_classes": 4, "min_voxels": (3, 30), "relabel": ((3, 1, 2), (3, 1, 40))}

    def work(share):
        return postprocess.choose(share.of(predictions), share.of(truths), everyone=share.in_order, **options)

    alone = postprocess.choose(predictions, truths, **options)
    assert alone and shares.run(len(truths) + 1, work) == [alone] * (len(truths) + 1)  # the last has no case


@pytest.mark.parametrize("regions", [None, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}])
def test_choosing_never_lowers_any_regions_validation_dice(regions):
    groups = list(regions.values()) if regions else [(1,), (2,), (3,)]
    for seed in range(3):
        truths = [random_labels(10 * seed + n) for n in range(3)]
        noise = np.random.default_rng(seed)
        predictions = [np.where(noise.random(t.shape) < 0.15, noise.integers(0, 4, t.shape), t).astype(np.uint8) for t in truths]
        steps = postprocess.choose(
            predictions,
            truths,
            num_classes=4,
            regions=regions,
            min_voxels=(2, 4, 8),
            min_mm3=(3.5,),
            spacings=[(1, 1, 2)] * 3,
            relabel=((3, 1, 50),),
        )
        after = [postprocess.apply(p, steps, (1, 1, 2)) for p in predictions]
        before, after = mean_dice(predictions, truths, groups), mean_dice(after, truths, groups)
        assert (after >= before - 1e-9).all() and (not steps or after.mean() > before.mean())
        if steps:
            assert steps[0]["dice"][0] == pytest.approx(before.mean(), abs=1e-5)
            assert steps[-1]["dice"][1] == pytest.approx(after.mean(), abs=1e-5)


def test_perfect_predictions_and_two_true_tumours_are_left_alone():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[ball((5, 5, 5), 3)] = 1
    labels[ball((14, 14, 14), 4)] = 1
    assert postprocess.choose([labels], [labels], num_classes=2, min_voxels=(1, 100), relabel=((1, 0, 500),)) == []


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda x: postprocess.keep_largest(x, connectivity=4), "connectivity=4"),
        (lambda x: postprocess.keep_largest(x, ties="both"), "must be one of first, all"),
        (lambda x: postprocess.remove_small(x), "one of them"),
        (lambda x: postprocess.remove_small(x, 3, min_mm3=3), "one of them"),
        (lambda x: postprocess.remove_small(x, min_mm3=3), "spacing=None"),
        (lambda x: postprocess.apply(x, [{"step": "keep_larges", "options": {}}]), "did you mean keep_largest"),
        (lambda x: postprocess.apply(x, [{"step": "fill_holes", "options": {"clases": [1]}}]), "clases"),
        (lambda x: postprocess.choose([x], [], num_classes=2), "1 predictions, 0 truths"),
        (lambda x: postprocess.choose([], [], num_classes=2), "at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call(random_labels(0))
