"""A data set and a reader of one's own, by their paths: what they may do, and how their mistakes are reported."""

from pathlib import Path

import numpy as np
import pytest

from configs.folder import get_config
from jaxseg.config import resolve
from jaxseg.data import datasets
from jaxseg.data.formats import own, volumes
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.types import ConfigError, DataError

HERE = __name__


def listed(root, *, patient="p"):
    cases = tuple(Case(id=p.stem, patient=patient, images=(p,), mask=p) for p in sorted(Path(root).glob("*.grid")))
    return DataSet("anything", Path(root), cases, labels=("a",), map_mask=np.sign)


def careless(root):
    return {}["no such key"]


def no_list(root):
    return []


def grid(path):
    """A text of numbers."""
    array = np.loadtxt(path, ndmin=2)[..., None].astype(np.float32)
    return Volume(array, np.diag([2.0, 1.0, 1.0, 1.0]), None, path)


def flat(path):
    return Volume(np.zeros((3, 3)), np.eye(4), None, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "_readers", {})
    for name in ("b", "a"):
        (tmp_path / f"{name}.grid").write_text("1 2 3\n4 5 6\n")
    return tmp_path


def test_a_function_lists_cases_under_its_path_with_its_own_options(folder):
    path = f"{HERE}:listed"
    found = datasets.load(path, folder, patient="anna")
    assert found.name == path and [case.id for case in found.cases] == ["a", "b"] and found.cases[0].patient == "anna"
    assert datasets.options_of(path) == ("patient",) and datasets.is_own(path) and not datasets.is_own("ct_ich")
    with pytest.raises(ConfigError, match="takes no option 'structures'"):
        datasets.load(path, folder, structures=("a",))


@pytest.mark.parametrize(
    "name, error, words",
    [
        ("careless", DataError, "fails on .*KeyError: 'no such key'; jaxseg.testing.check_dataset tries it out"),
        ("no_list", ConfigError, "returns a list; it must return a jaxseg.data.records.DataSet"),
        ("missing", ConfigError, "has no attribute 'missing'"),
        ("HERE", ConfigError, "is a str; name a function load"),
    ],
)
def test_a_mistake_in_a_function_is_one_line(folder, name, error, words):
    with pytest.raises(error, match=words) as raised:
        datasets.load(f"{HERE}:{name}", folder)
    assert "\n" not in str(raised.value)


def test_a_reader_serves_every_place_where_files_are_looked_for(folder):
    with pytest.raises(DataError, match="no image file|unknown kind of file"):
        volumes.read_volume(folder / "a.grid")
    with pytest.raises(DataError, match="no input among"):
        volumes.find_inputs(folder)
    own.register(((".grid", f"{HERE}:grid"),))
    found = volumes.find_inputs(folder)
    assert [path.name for path in found] == ["a.grid", "b.grid"]
    volume = volumes.read_volume(found[0])
    assert volume.array.tolist() == [[[1], [2], [3]], [[4], [5], [6]]] and volume.spacing == (2, 1, 1)
    volumes.write_like(folder / "out.nii.gz", np.ones((2, 3, 1), np.uint8), volume)
    assert volumes.read_volume(folder / "out.nii.gz").spacing == (2, 1, 1)
    (folder / "a.grid").write_text("1 x 3")
    with pytest.raises(DataError, match="its reader grid failed: ValueError") as error:
        volumes.read_volume(folder / "a.grid")
    assert error.value.code == "DATA_READER"
    own.register(((".grid", f"{HERE}:flat"),))
    with pytest.raises(DataError, match=r"an array of shape \(3, 3\)"):
        volumes.read_volume(folder / "b.grid")
    with pytest.raises(ConfigError, match="already reads files ending in .nii.gz"):
        own.register(((".nii.gz", f"{HERE}:grid"),))


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"data.dataset": "mine:load"}, "has no embedded phantom; give data.root"),
        ({"data.readers": ((".GRID", "mine:read"),)}, "suffixes in small letters"),
        ({"data.transforms": (("drop_rows", {}),)}, "must be .*module:function"),
        ({"eval.metrics": ("a:same", "b:same")}, "with functions of different names"),
        ({"loss.terms": (("dize", 1.0),)}, "unknown loss term"),
    ],
)
def test_what_a_config_cannot_mean_is_refused(keys, words):
    tree = get_config("quick")
    with tree.unlocked():
        for key, value in keys.items():
            group, _, leaf = key.partition(".")
            tree[group][leaf] = value
    with pytest.raises(ConfigError, match=words):
        resolve(tree)
