"""The stream of patches: a pure function of (seed, position), one third centred on foreground, its own bytes alone."""

import concurrent.futures
import dataclasses
import pickle
import sys
import threading
import tracemalloc
import types
from fractions import Fraction

import numpy as np
import pytest

from jaxseg.data.store import arrays, per_case
from jaxseg.data.store.arrays import file_digest
from jaxseg.data.store.rows import from_records
from jaxseg.data.stream import patches
from jaxseg.data.stream.patches import PatchRule, patch_batches
from jaxseg.types import ConfigError, DataError
from tests.data.stream.test_pipeline import parsed  # noqa: F401  (a fixture)

SHAPES = ((9, 7, 5), (6, 11, 8), (3, 4, 9), (8, 8, 8), (5, 5, 5))
PATCH = (4, 5, 3)


def write_store(folder, shapes=SHAPES, classes=3):
    """Voxel values are their flat index plus 1000 a volume; volume 3 has no foreground, volume 1 the classes 1 and 3."""
    recipe = per_case.Recipe(
        size=PATCH, window=None, spacing=None, channels=2, labels=("a", "b", "c"), intensity="brain", fit="patches"
    )

    def items():
        for i, shape in enumerate(shapes):
            n = int(np.prod(shape))
            flat = np.arange(n, dtype=np.float32).reshape(shape) + 1000 * i
            mask = (np.random.default_rng(i).random(shape) < 0.1) * np.random.default_rng(i + 9).integers(1, classes + 1, shape)
            mask = mask.astype(np.uint8) * (i != 3)
            mask[mask == 2] = 0 if i == 1 else 2
            yield np.stack([flat, -flat], -1), mask, {"case": f"case{i}", "patient": f"p{i}"}

    per_case.write(folder, items(), recipe, count=len(shapes), name="toy", synthetic=True, regions=[], log=lambda line: None)
    return per_case.open_store(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


def take(store, count, indices=range(5), **options):
    options = {"batch_size": 4, "patch": PATCH, "seed": 3, "per_volume": 4, **options}
    with patch_batches(store, indices, **options) as batches:
        return [next(batches) for _ in range(count)]


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def whole(store, row):
    """The volume with a frame of zeros at its end, as wide as a patch."""
    return [np.pad(np.asarray(a), [(0, p) for p in PATCH] + [(0, 0)] * (a.ndim - 3)) for a in (store.image(row), store.mask(row))]


def test_a_patch_is_cut_from_its_volume_and_padded_with_zeros_at_its_end(store):
    rule = PatchRule(PATCH, 3, Fraction(1, 3))
    padded = 0
    for b, batch in enumerate(take(store, 10)):
        assert batch["image"].shape == (4, *PATCH, 2) and batch["image"].dtype == np.float32
        assert batch["mask"].shape == (4, *PATCH) and batch["mask"].dtype == np.uint8 and batch["index"].dtype == np.int64
        for i, row in enumerate(batch["index"].tolist()):
            start = rule.start(store, row, 4 * b + i)
            cut = tuple(slice(s, s + p) for s, p in zip(start, PATCH))
            image, mask = whole(store, row)
            np.testing.assert_array_equal(batch["image"][i], image[cut])
            np.testing.assert_array_equal(batch["mask"][i], mask[cut])
            assert all(s == 0 or s + p <= n for s, p, n in zip(start, PATCH, SHAPES[row]))
            padded += any(n < p for n, p in zip(SHAPES[row], PATCH))
    assert padded == 8  # of 40 patches, a fifth


def test_coordinates_run_from_0_to_1_over_the_whole_volume(store):
    plain, batches = take(store, 5), take(store, 5, coordinates=True)
    for before, batch in zip(plain, batches):
        assert batch["image"].shape == (4, *PATCH, 5) and batch["image"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"][..., :2], before["image"])
        for i, row in enumerate(batch["index"].tolist()):
            flat, shape = batch["image"][i, ..., 0] - 1000 * row, SHAPES[row]
            inside = tuple(slice(0, min(n, p)) for n, p in zip(shape, PATCH))
            at = np.stack(np.unravel_index(flat[inside].astype(int), shape), -1) / (np.array(shape) - 1)
            np.testing.assert_allclose(batch["image"][i][inside][..., 2:], at, atol=1e-6)
            outside = np.ones(PATCH, bool)
            outside[inside] = False
            assert not batch["image"][i][outside].any()


def test_every_volume_appears_per_volume_times_an_epoch_whatever_the_batch(store):
    rows = np.concatenate([b["index"] for b in take(store, 15)])  # 3 epochs of 20 patches
    for epoch in rows.reshape(3, 20):
        assert np.bincount(epoch).tolist() == [4] * 5
    assert len({tuple(e) for e in rows.reshape(3, 20)}) == 3
    parts = take(store, 20, batch_size=3)
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in parts]), rows)
    for key in ("image", "mask"):
        np.testing.assert_array_equal(*[np.concatenate([b[key] for b in bs]) for bs in (parts, take(store, 15))])
    assert patches.steps_per_epoch(5, 4, 4) == 5 and patches.steps_per_epoch(5, 3, 4) == 6


@pytest.mark.parametrize(
    "share, expected", [(Fraction(1, 3), [0]), (1 / 3, [0]), (Fraction(2, 3), [0, 2]), (0, []), (1, [0, 1, 2])]
)
def test_exactly_its_share_of_the_patches_is_centred_on_foreground(share, expected):
    rule = PatchRule(PATCH, 0, Fraction(share).limit_denominator(1000))
    assert [n for n in range(3000) if rule.foreground(n)] == [n for n in range(3000) if n % 3 in expected]


def test_foreground_patches_hold_a_voxel_of_a_class_at_their_centre(store):
    """At the centre itself, unless the border of the volume moved the patch."""
    for n in range(0, 600, 3):
        row = (0, 1, 4)[n // 3 % 3]
        start = PatchRule(PATCH, 3, Fraction(1, 3)).start(store, row, n)
        centre = [s + p // 2 for s, p in zip(start, PATCH)]
        moved = any(s in (0, n - p) for s, p, n in zip(start, PATCH, SHAPES[row]))
        cut = store.mask(row)[tuple(slice(s, s + p) for s, p in zip(start, PATCH))]
        assert cut.any() and (moved or store.mask(row)[tuple(centre)] > 0)


def test_classes_and_voxels_are_drawn_uniformly_among_those_present(store, monkeypatch):
    drawn = []
    take_index = per_case.PerCase.foreground
    monkeypatch.setattr(per_case.PerCase, "foreground", lambda self, row, k: drawn.append(k) or take_index(self, row, k))
    found = [PatchRule((1, 1, 1), 0, Fraction(1)).start(store, 1, n) for n in range(3000)]
    assert set(drawn) == {1, 3} and abs(drawn.count(1) - 1500) < 140  # 5 sigma of a binomial(3000, 1/2)
    voxels, counts = np.unique(np.ravel_multi_index(np.transpose(found), SHAPES[1]), return_counts=True)
    for k in (1, 3):
        those = counts[np.isin(voxels, store.foreground(1, k))]
        expected = 1500 / store.rows[1]["foreground"][k - 1]
        assert len(those) == store.rows[1]["foreground"][k - 1] and np.abs(those - expected).max() < 5 * expected**0.5 + 1


def test_other_patches_are_centred_anywhere_also_where_there_is_no_foreground(store):
    found = [PatchRule((1, 1, 1), 0, Fraction(1)).start(store, 3, n) for n in range(4000)]
    counts = np.zeros(SHAPES[3], int)
    np.add.at(counts, tuple(np.transpose(found)), 1)
    for axis in range(3):
        along = counts.sum(tuple(a for a in range(3) if a != axis))
        assert np.abs(along - 500).max() < 105  # 5 sigma of a binomial(4000, 1/8)


@pytest.mark.parametrize(
    "positions, touching", [("uniform", (2 / 113, 2 / 113, 2 / 28)), ("centre_clipped", (129 / 240, 129 / 240, 129 / 155))]
)
def test_patches_of_128_voxels_touch_the_borders_of_a_brats_volume_as_often_as_their_rule_says(positions, touching):
    shape, patch = (240, 240, 155), (128, 128, 128)
    held = types.SimpleNamespace(rows=[{"shape": shape, "foreground": [0], "kept": [0]}])
    rule = PatchRule(patch, 0, Fraction(0), positions)
    starts = np.array([rule.start(held, 0, n) for n in range(4000)])
    last = np.subtract(shape, patch)
    assert starts.min() >= 0 and (starts <= last).all()
    for axis in range(3):
        at = (starts[:, axis] == 0) | (starts[:, axis] == last[axis])
        assert abs(at.mean() - touching[axis]) < 5 * (touching[axis] * (1 - touching[axis]) / 4000) ** 0.5
        if positions == "uniform":
            counts = np.bincount(starts[:, axis], minlength=last[axis] + 1)
            expected = 4000 / (last[axis] + 1)
            assert np.abs(counts - expected).max() < 6 * expected**0.5  # every start as likely


def test_the_seed_decides_and_the_places_are_the_same_on_every_machine(store):
    for positions, golden in GOLDEN.items():
        assert [PatchRule(PATCH, 3, Fraction(1, 3), positions).start(store, 0, n) for n in range(6)] == golden
    same(take(store, 4), take(store, 4))
    assert any(not np.array_equal(a["image"], b["image"]) for a, b in zip(take(store, 4), take(store, 4, seed=4)))


GOLDEN = {  # a change breaks every resumed run
    "centre_clipped": [(0, 2, 0), (3, 2, 2), (1, 2, 2), (3, 2, 1), (5, 2, 2), (3, 0, 2)],
    "uniform": [(0, 2, 0), (3, 2, 2), (2, 1, 2), (3, 2, 1), (5, 2, 1), (3, 1, 1)],
}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(store, parsed, workers):  # noqa: F811
    same(take(store, 6, workers=workers), take(store, 6))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_contiguous_blocks_of_the_same_batches(store, processes):
    parts = [take(store, 6, process_index=p, process_count=processes) for p in range(processes)]
    same([{key: np.concatenate([part[i][key] for part in parts]) for key in parts[0][i]} for i in range(6)], take(store, 6))


@pytest.mark.parametrize("start", [1, 5, 7])
def test_a_restart_continues_the_uninterrupted_stream(store, start):
    same(take(store, 4, start_batch=start), take(store, 11)[start : start + 4])


def test_no_volume_outside_the_training_split_is_touched(store, monkeypatch):
    own, touched, opened = dataclasses.replace(store), set(), per_case.PerCase._map  # the stream of another test may read ahead

    def record(self, i, *rest):
        touched.update([i] if self is own else [])
        return opened(self, i, *rest)

    monkeypatch.setattr(per_case.PerCase, "_map", record)
    batches = take(own, 9, indices=[4, 1], share=1)
    assert touched == {1, 4} == {int(i) for b in batches for i in b["index"]}
    assert {int(i) for b in take(own, 9, max_samples=2) for i in b["index"]} == {0, 2}


def test_a_patch_of_a_large_volume_takes_the_memory_of_its_own_bytes_alone(tmp_path):
    """The image is a sparse file of 256 MB: a volume that is held whole, for its digest or its patch, would be allocated."""
    shape = (512, 256, 256)
    arrays = {"image": (np.float32, (*shape, 2)), "mask": (np.uint8, shape), "foreground": (np.uint32, (1,))}
    for kind, (dtype, full) in arrays.items():
        np.lib.format.open_memmap(per_case._place(tmp_path, 0, kind), "w+", dtype, full).flush()
    row = {
        "case": "large",
        "shape": list(shape),
        "foreground": [1, 0, 0],
        "kept": [1, 0, 0],
        **{column: file_digest(per_case._path(tmp_path, 0, kind)) for kind, column in per_case.KINDS.items()},
    }
    recipe = per_case.Recipe((8, 8, 8), None, None, 2, ("a", "b", "c"), "brain")
    large = per_case.PerCase(tmp_path, from_records([row]), recipe, "large", True)
    tracemalloc.start()
    try:
        batches = take(large, 4, indices=[0], patch=(8, 8, 8))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(b["image"].size for b in batches) == 4 * 4 * 8**3 * 2
    assert most < 20_000_000


def test_maps_that_are_closed_for_others_are_opened_again(store, monkeypatch):
    expected = take(store, 9)
    monkeypatch.setattr(arrays, "KEPT", 2)
    few = per_case.open_store(store.folder)
    for a, b in zip(take(few, 9), expected):
        np.testing.assert_array_equal(a["image"], b["image"])
    assert len(few._open) == 2


def test_several_threads_read_while_others_maps_are_closed(store, monkeypatch):
    """Batches and patches are read by threads: maps that one of them closes must not disturb another's."""
    monkeypatch.setattr(arrays, "KEPT", 2)
    shared = per_case.open_store(store.folder)
    expected = [np.asarray(store.mask(i)).sum() for i in range(len(store))]
    start = threading.Barrier(8)

    def read(thread: int) -> None:
        start.wait(timeout=60)
        for n in range(200):
            i = (thread + n) % len(shared)
            assert shared.kept(i).mask.sum() == expected[i] and len(shared._open) <= 2

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_a_copy_of_a_store_for_another_process_opens_its_own_maps(store):
    store.kept(0)
    copy = pickle.loads(pickle.dumps(store))
    assert len(copy._open) == 0
    np.testing.assert_array_equal(copy.kept(0).image, store.kept(0).image)


def test_a_volume_that_cannot_be_read_is_named_with_its_batch(store, monkeypatch):
    def fail(*_):
        raise OSError("input/output error")

    monkeypatch.setattr(per_case.PerCase, "kept", fail)
    with pytest.raises(DataError, match=r"batch 0 \(cases case\d.*input/output error"):
        take(store, 1)


def test_sizes_that_do_not_fit_are_refused(store):
    for options, words in (
        ({"patch": (4, 4)}, "got a patch of"),
        ({"patch": (4, 0, 4)}, "got a patch of"),
        ({"share": 1.5}, "share of 1.5"),
        ({"positions": "centre"}, "centre_clipped"),
        ({"per_volume": 0}, "got 0 patches"),
        ({"batch_size": 21}, "got 20 training examples"),
        ({"process_count": 3}, "set 3, 6"),
        ({"indices": [0, 7]}, "store of 5"),
        ({"indices": []}, "training split is empty"),
        ({"start_batch": -1}, "start_batch=-1"),
        ({"max_samples": -1}, "max_samples=-1"),
    ):
        with pytest.raises(ConfigError, match=words):
            take(store, 1, **options)
