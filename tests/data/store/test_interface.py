"""What holds of every store, whatever its layout: records, boxes, foreground, digests at first use, versions."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from jaxseg.data import records
from jaxseg.data.records import Recipe
from jaxseg.data.store import base, fingerprint, foreground, per_case, stacked
from jaxseg.data.store.rows import from_records, read
from jaxseg.data.stream import patches, pipeline
from jaxseg.types import DataError
from tests.data import toy_set

RANDOM = np.random.default_rng(0)
FLAT = Recipe(size=(6, 7), window=None, spacing=None, channels=2, labels=("a", "b"), intensity="brain")
SOLID = dataclasses.replace(FLAT, size=(4, 4, 3))


def example(shape, classes=2):
    return RANDOM.normal(size=(*shape, 2)).astype(np.float32), RANDOM.integers(0, classes + 1, shape).astype(np.uint16)


def write(folder, layout, n=3, recipe=None, classes=2, size=None):
    """(store, its images and masks) of n random examples."""
    folder.mkdir()
    rows = [{"case": f"case{i}", "patient": f"p{i}", "stratum": "", "slice": i} for i in range(n)]
    if layout == "stacked":
        recipe = recipe or FLAT
        made = [example(size or recipe.size, classes) for _ in rows]
        with stacked.Writer(folder, recipe) as writer:
            for (image, mask), row in zip(made, rows):
                writer.add(image, mask, row)
            writer.finish(name="toy", synthetic=True, fingerprint="f")
        return stacked.open_cache(folder), made
    made = [example(size or (5 + i, 6, 7 - i), classes) for i in range(n)]
    items = ((image, mask, row) for (image, mask), row in zip(made, rows))
    per_case.write(
        folder, items, recipe or SOLID, count=n, name="toy", synthetic=True, regions=(), fingerprint="f", log=lambda line: None
    )
    return per_case.open_store(folder), made


layouts = pytest.mark.parametrize("layout", ["stacked", "per case"])


@layouts
def test_a_box_of_an_example_is_that_part_of_it(tmp_path, layout):
    store, made = write(tmp_path / "s", layout)
    assert isinstance(store, base.Store) and len(store) == 3 and store.fingerprint == "f"
    for i, (image, mask) in enumerate(made):
        box = tuple(slice(1, 4) for _ in mask.shape)
        for where in ((), box):
            found = store.read(i, where)
            np.testing.assert_array_equal(found[0], image[where])
            np.testing.assert_array_equal(found[1], mask[where])
            assert not found[0].flags.writeable
        for k in (1, 2):
            np.testing.assert_array_equal(store.foreground(i, k), np.flatnonzero(mask == k))
        assert store.rows[i]["foreground"] == [(mask == 1).sum(), (mask == 2).sum()] == store.rows[i]["kept"]
        assert (store.rows[i]["case"], store.rows[i]["stratum"]) == (f"case{i}", "")
    store.verify()


@layouts
@pytest.mark.parametrize("harm", ["image", "mask", "foreground"])
@pytest.mark.fault("D25")
def test_an_example_that_is_not_as_written_is_refused_when_it_is_first_read(tmp_path, layout, harm):
    _, made = write(tmp_path / "s", layout)
    name = {"image": "images", "mask": "masks"}.get(harm, harm) if layout == "stacked" else f"000/000002.{harm}"
    path = tmp_path / "s" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    store = stacked.open_cache(tmp_path / "s") if layout == "stacked" else per_case.open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.read(0)[0], made[0][0])
    for _ in range(2):  # it is not taken for checked after a failure
        with pytest.raises(DataError, match="case2.*has changed since it was written; delete the folder") as error:
            store.read(2)
        assert error.value.code == "DATA_CHANGED"
    with pytest.raises(DataError, match="case2"):
        with (
            pipeline.train_batches(store, [2], batch_size=1, seed=0)
            if layout == "stacked"
            else patches.patch_batches(store, [2], batch_size=1, patch=(2, 2, 2), seed=0) as batches
        ):
            next(batches)


@layouts
def test_an_example_is_checked_once(tmp_path, layout, monkeypatch):
    store, _ = write(tmp_path / "s", layout)
    checked, digests = [], type(store)._digests
    monkeypatch.setattr(type(store), "_digests", lambda self, i: checked.append(i) or digests(self, i))
    for i in (0, 2, 0, 2, 0):
        store.read(i)
    assert checked == [0, 2]
    store.verify()
    assert checked == [0, 2, 0, 1, 2]


@layouts
def test_classes_above_255_are_kept_in_16_bits(tmp_path, layout):
    labels = tuple(f"c{k}" for k in range(1, 301))
    recipe = dataclasses.replace(FLAT if layout == "stacked" else SOLID, labels=labels)
    store, made = write(tmp_path / "s", layout, recipe=recipe, classes=300)
    for i, (_, mask) in enumerate(made):
        assert store.mask(i).dtype == np.uint16
        np.testing.assert_array_equal(store.mask(i), mask)
        k = int(mask.max())
        assert k > 255 and store.foreground(i, k).tolist() == np.flatnonzero(mask == k).tolist()
    if layout == "per case":
        with patches.patch_batches(store, [0], batch_size=1, patch=(5, 6, 7), seed=0) as batches:
            np.testing.assert_array_equal(next(batches)["mask"][0], made[0][1])


@layouts
def test_a_store_of_another_format_or_layout_is_refused(tmp_path, layout):
    store, _ = write(tmp_path / "s", layout)
    path = store.folder / base.MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["format"] == 2 and manifest["rules"] == fingerprint.RULES
    opened = stacked.open_cache if layout == "stacked" else per_case.open_store
    for changed in ({"format": 1}, {"layout": "other"}, {"examples": 2}, {"columns": {}}, {"recipe": None}):
        path.write_text(json.dumps(manifest | changed))
        with pytest.raises(DataError, match="damaged.*delete the folder"):
            opened(store.folder)


# ---- foreground --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, kept", [(9_999, 9_999), (10_001, 10_000), (1_000_001, 10_001)])
def test_10000_voxels_of_a_class_are_kept_but_at_least_one_in_a_hundred(n, kept):
    mask = np.ones(n + 3, np.uint8)
    mask[[0, 5, n]] = 0
    index, kept_each, counts = foreground.index(mask, 2)
    assert (kept_each, counts) == ([kept, 0], [n, 0]) and len(index) == kept and index.dtype == np.uint32
    assert (np.diff(index.astype(np.int64)) > 0).all() and mask[index].all()
    np.testing.assert_array_equal(index, foreground.index(mask, 2)[0])  # no chance in it
    halves = (index < n // 2).mean()
    assert abs(halves - 0.5) < 5 * 0.5 / kept**0.5  # from everywhere


def test_patches_are_centred_on_the_voxels_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(foreground, "KEPT", 4)
    store, _ = write(tmp_path / "s", "per case", n=1, size=(9, 8, 7))
    assert store.rows[0]["kept"] == [4, 4] and store.rows[0]["foreground"][0] > 100
    rule = patches.PatchRule((1, 1, 1), 0, patches.Fraction(1))
    found = {int(np.ravel_multi_index(rule.start(store, 0, n), (9, 8, 7))) for n in range(200)}
    assert found == {*store.foreground(0, 1).tolist(), *store.foreground(0, 2).tolist()}


# ---- rows and rules ----------------------------------------------------------------------------------------------------


def test_rows_are_records_in_columns(tmp_path):
    records = [
        {"case": name, "slice": i, "foreground": [i, 2], "spacing": [0.5, i / 3], "constant": i > 0}
        for i, name in enumerate(("a", "é, long", ""))
    ]
    rows = from_records(records)
    columns = rows.write(tmp_path)
    again = read(tmp_path, columns)
    assert list(again) == records == [again[i] for i in range(3)] and again == rows and again[-1] == records[-1]
    assert list(again[1:]) == records[1:] and again[1:] != rows and len(again[:0]) == 0
    assert json.loads(json.dumps(list(again))) == records  # plain values
    with pytest.raises(IndexError):
        rows[3]
    with pytest.raises(ValueError, match="same"):
        from_records([*records, {"case": "b"}])


def test_the_text_of_a_case_is_the_json_of_its_facts(tmp_path):
    """Stores are found by it: names with quotes, line ends and other scripts give the text that `json.dumps` gives."""
    first, other = tmp_path / 'a "b"\\.nii', tmp_path / "Ω\u2028.nii"
    first.write_bytes(b"12"), other.write_bytes(b"")
    dataset, facts = toy_set.make(tmp_path / "d", 1), lambda path: [path.name, path.stat().st_size, path.stat().st_mtime_ns]
    case = records.Case("ü\n1", 'p"', (first, tmp_path / "absent"), other, {"bleed": {2, 1}}, parts=(tmp_path / "d" / "none",))
    files = [facts(first), ["absent", "missing"], facts(other), ["none", "missing"]]
    about = [case.id, case.patient, [["bleed", [1, 2]]], dataset.stratum(case), files]
    text = fingerprint.Sources(dataset, toy_set.RECIPE).case
    assert text(case) == json.dumps(about) and text(dataclasses.replace(case, slab=(1, 3))) == json.dumps([*about, (1, 3)])


def test_a_rule_counts_by_the_version_of_its_module_and_else_by_its_text(tmp_path, monkeypatch):
    dataset = toy_set.make(tmp_path / "d", 1)
    found = lambda: fingerprint.fingerprint(dataset, toy_set.RECIPE)
    plain = found()
    monkeypatch.setitem(fingerprint.RULES, "labels", 99)
    assert found() != plain
    monkeypatch.undo()
    assert found() == plain
    monkeypatch.setattr(sys.modules[toy_set.__name__], "VERSION", 1, raising=False)
    versioned = found()
    monkeypatch.setattr(fingerprint.inspect, "getsource", lambda function: "def other(): ...")
    assert found() == versioned != plain  # the text no longer counts
    monkeypatch.setattr(sys.modules[toy_set.__name__], "VERSION", 2)
    assert found() != versioned
