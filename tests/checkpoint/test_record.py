"""The run's record: what it must hold, the digest of its content, and formats that are read no more."""

import copy
import hashlib
import json
import os
import random

import pytest

import jaxseg
from configs import _base
from jaxseg.checkpoint import find_record, kinds, read_record, write_record
from jaxseg.config import KINDS, as_dict, flatten
from jaxseg.types import CheckpointError, MismatchError
from tests.records import CONFIG, RECORD, edit


def test_a_record_reads_back_as_written_with_format_version_and_digest(tmp_path):
    write_record(tmp_path, RECORD | {"note": "kept"})
    record = read_record(tmp_path)
    digest = record.pop("digest")
    assert record == json.loads(json.dumps(RECORD)) | {"note": "kept", "format": 2, "jaxseg": jaxseg.__version__}
    assert digest == hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert os.listdir(tmp_path) == ["run.json"]


def test_an_incomplete_record_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="labels is missing"):
        write_record(tmp_path, {k: v for k, v in RECORD.items() if k != "labels"})
    with pytest.raises(ValueError, match="model.rank must be a whole number, not '2'"):
        write_record(tmp_path, RECORD | {"model": RECORD["model"] | {"rank": "2"}})
    with pytest.raises(ValueError, match="JSON-able"):
        write_record(tmp_path, RECORD | {"extra": object()})
    assert not os.listdir(tmp_path)
    for content, message in (
        ("{", "not readable JSON"),
        ("[1]", "not a run's record"),
        ('{"format": "2"}', "no whole number 'format'"),
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_record(tmp_path)


def test_a_record_of_format_1_names_the_last_version_that_reads_it_and_a_newer_one_asks_for_a_newer_version(tmp_path):
    write_record(tmp_path, RECORD)
    edit(tmp_path, lambda record: record | {"format": 1})
    with pytest.raises(MismatchError, match="has format 1, .* jaxseg 0.1.0 is the last version that reads it") as caught:
        read_record(tmp_path)
    assert caught.value.exit_code == 78 and "\n" not in str(caught.value)
    for number in (0, 3, 10**400):
        edit(tmp_path, lambda record, number=number: record | {"format": number})
        with pytest.raises(CheckpointError, match="reads format 2; use a newer jaxseg"):
            read_record(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["labels"].__setitem__(0, "stroke"),
        lambda record: record["recipe"].update(window=[40, 80]),
        lambda record: record["config"]["data"].update(window=[40, 80]),
        lambda record: record["values"].__setitem__(0, 255),
        lambda record: record["model"]["options"].update(dropout=0.5),
        lambda record: record.update(note="added"),
        lambda record: record.pop("code"),
    ],
)
def test_an_accidental_edit_is_found_by_the_digest(tmp_path, change):
    write_record(tmp_path, RECORD)
    edit(tmp_path, change, digest=False)
    with pytest.raises(CheckpointError, match="damaged or edited: its content does not match its digest; restore it"):
        read_record(tmp_path)


def test_white_space_and_the_order_of_keys_are_no_content(tmp_path):
    write_record(tmp_path, RECORD)
    edit(tmp_path, lambda record: dict(reversed(record.items())), digest=False)
    assert read_record(tmp_path)["labels"] == ["bleed"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: r.update(recipe={}), "recipe.size is missing"),
        (lambda r: r["recipe"].update(size=[8, "8"]), "recipe.size must be a list, each entry a whole number, not a list of 2"),
        (lambda r: r["recipe"].update(window=[1]), "recipe.window must be a list of 2 entries or null"),
        (lambda r: r["recipe"].update(evil=1), "recipe.evil is not an entry of a recipe"),
        (lambda r: r["recipe"].update(size=[8, 8, 8]), "recipe.size must hold model.rank"),
        (lambda r: r["recipe"].update(labels=["other"]), "must name the same classes"),
        (lambda r: r.update(labels=[], values=[], recipe=r["recipe"] | {"labels": []}), "at least one"),
        (lambda r: r.update(labels=[["a"]]), "labels must be a list, each entry a text"),
        (lambda r: r.update(values=["1"]), "values must be"),
        (lambda r: r.update(values=[1, 2]), "must name the same classes"),
        (lambda r: r.update(regions=[["WT", [2]]]), "unions of the classes 1..1"),
        (lambda r: r.update(regions=[["WT", "1"]]), "regions must be"),
        (lambda r: r["model"].update(num_classes=7), "model.num_classes must be 1 or 2, not 7"),
        (lambda r: r["model"].update(in_channels=0), "recipe.channels must lie in 1..0"),
        (lambda r: r["model"].update(name=["x"]), "model.name must be a text"),
        (lambda r: r["model"].update(options=[]), "model.options must be an object"),
        (lambda r: r.update(splits={"train": []}), "splits.val is missing"),
        (lambda r: r.update(code={"my_net": 1}), "code must be an object"),
        (lambda r: r.update(data={}), "data.digest is missing"),
        (lambda r: r["config"].pop("data"), "config.data is missing"),
        (lambda r: r["config"].update(eval=3), "config.eval must be an object, not 3"),
        (lambda r: r["config"]["data"].pop("whole"), "config.data.whole is missing"),
        (lambda r: r["config"]["data"].update(whole=1), "config.data.whole must be true or false, not 1"),
        (lambda r: r["config"]["infer"].update(ensemble=[5]), "config.infer.ensemble must be a list, each entry a text"),
        (lambda r: r["config"]["train"].update(augment=[["flip", 0.5]]), "config.train.augment must be"),
        (lambda r: r["config"].update(seed=0.5), "config.seed must be a whole number, not 0.5"),
        (lambda r: r["config"]["optim"].update(lr=float("nan")), "config.optim.lr must be a finite number"),
    ],
)
def test_whatever_the_digest_says_every_entry_is_of_its_kind(tmp_path, change, words):
    write_record(tmp_path, RECORD)
    edit(tmp_path, lambda record: change(record) and None)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_record(tmp_path)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_record_that_is_too_deep_is_one_line(tmp_path):
    write_record(tmp_path, RECORD)
    text = (tmp_path / "run.json").read_text()
    for depth in (100, 100_000):
        (tmp_path / "run.json").write_text(text.replace('"code": {}', '"code": ' + "[" * depth + "]" * depth))
        with pytest.raises(CheckpointError, match="levels"):
            read_record(tmp_path)


def test_any_entry_may_be_replaced_by_anything_and_nothing_but_one_line_comes(tmp_path):
    """2,000 records with a valid digest and one entry, at any depth, of another kind."""
    draw = random.Random(0)
    write_record(tmp_path, RECORD)
    whole = read_record(tmp_path)
    strange = (None, True, -1, 10**30, 1.5, "", "x", [], [[]], {}, {"a": []}, [1, "2"], [None])

    def places(value, path=()):
        yield path
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*path, key))

    found = [path for path in places(whole) if path and path != ("digest",)]
    refused = 0
    for _ in range(2000):
        record = copy.deepcopy(whole)
        *path, last = draw.choice(found)
        place = record
        for key in path:
            place = place[key]
        place[last] = draw.choice(strange)
        edit(tmp_path, lambda _, record=record: record)
        try:
            find_record(tmp_path)
        except (CheckpointError, MismatchError) as error:
            refused += "\n" not in str(error)
    assert refused > 1000


def test_the_kinds_of_keys_are_those_of_the_tree():
    tree = flatten(as_dict(_base.base()))
    assert set(KINDS) == set(tree)
    wrong = [key for key, value in tree.items() if not kinds.fits(json.loads(json.dumps(value)), KINDS[key])]
    assert not wrong
    typed = _base.base()
    for key in tree:
        group, _, leaf = key.rpartition(".")
        kind = (typed[group] if group else typed).get_type(leaf)
        if kind.__name__ != "ConfigDict":
            values = {int: 1, float: 1.5, str: "x", bool: True, tuple: []}
            assert kinds.fits(values[kind], KINDS[key]), key
    assert kinds.fits(CONFIG["model"]["options"], KINDS["model.options"])


def test_a_folder_without_a_record_is_named_with_what_a_run_folder_holds(tmp_path):
    with pytest.raises(CheckpointError, match="has no run.json; a run folder holds run.json and checkpoints/"):
        read_record(tmp_path)
    with pytest.raises(CheckpointError, match="it does not exist"):
        read_record(tmp_path / "typo")
