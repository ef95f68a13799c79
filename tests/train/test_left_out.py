"""config.data.bad_cases from end to end: the cases that a run leaves out, what it logs about them, and how it is resumed."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_volumes as tiny

from jaxseg import modes
from jaxseg.data import datasets
from jaxseg.data.store import bad_cases
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, DataError, MismatchError

RANKS = {
    3: ("quick", {"data__size": (16, 16, 16), "data__per_volume": 1, "infer__overlap": 0.0}),
    2: ("slices,quick", {"data__size": (16, 16), "data__max_samples": 16}),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory, unoptimised):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def root(tmp_path) -> Path:
    """The six cases of the quick phantom, the second with half a mask."""
    root = Path(shutil.copytree(datasets.phantom("brats", "quick"), tmp_path / "data"))
    mask = masks(root)[1]
    shutil.copy(mask, tmp_path / "whole_mask")
    mask.write_bytes(mask.read_bytes()[:100])
    return root


def masks(root: Path) -> list[Path]:
    return sorted(root.rglob("*seg*"), key=lambda path: path.name)


def config(root: Path, rank: int = 3, **changes):
    kind, sizes = RANKS[rank]
    given = {
        "data__bad_cases": "skip",
        "data__bad_share": 0.2,
        "data__fractions": (0.5, 0.25, 0.25),
        "train__epochs": 1,
        "train__bn_warmup": 0,
        "schedule__warmup": 0,
        "data__root": str(root),
        "data__phantom": None,
    }
    given = {**given, **sizes, **changes}
    if given["data__fractions"] is None:  # they decide nothing beside a split from a file
        del given["data__fractions"]
    return tiny.config("brats_unet3d", kind, **given)


def load(tmp_path, config):
    return setup.load_data(config, Log(tmp_path), tmp_path)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.fault("D26")
def test_a_run_without_its_bad_case_reports_it_and_is_resumed_with_the_same_cases_only(tmp_path, root, rank, capsys):
    run, bad = tmp_path / "run", masks(root)[1].parent.name
    assert not modes.train(modes.Call(config(root, rank), run))
    tiny.release(run)
    said = capsys.readouterr().out.splitlines()
    (reason,) = {line.split(" ", 1)[1] for line in said if f"left out: {bad}" in line}
    assert bad in reason and "[DATA_TRUNCATED]" in reason and masks(root)[1].name in reason
    assert "1 of 6 cases are bad and left out" in said[-1] and bad in said[-1]  # the end of the summary
    assert bad_cases.read(run).cases == [bad] == json.loads((run / "run.json").read_text())["data"]["left_out"]
    assert bad not in (run / "splits.json").read_text()
    (run / "state.json").unlink()  # as if it had been stopped
    shutil.copy(tmp_path / "whole_mask", masks(root)[1])
    with pytest.raises(MismatchError, match=f"1 cases were left out at the run's first start.*{bad}"):
        modes.train(modes.Call(config(root, rank), run))
    tiny.release(run)


def test_the_default_stops_and_names_the_file(tmp_path, root):
    stop = {"data__bad_cases": "stop", "data__bad_share": 0.05}
    for rank in RANKS:
        with pytest.raises(DataError, match=masks(root)[1].name) as error:
            load(tmp_path, config(root, rank, **stop))
        assert error.value.code == "DATA_TRUNCATED"
    with pytest.raises(ConfigError, match="data.bad_share=0.5: needs data.bad_cases='skip'"):
        config(root, **{**stop, "data__bad_share": 0.5})
    with pytest.raises(ConfigError, match="data.bad_share=1.5"):
        config(root, data__bad_share=1.5)
    with pytest.raises(ConfigError, match="data.bad_cases.*'leave'"):
        config(root, data__bad_cases="leave")


def test_a_split_that_has_only_the_bad_case_is_refused(tmp_path, root):
    names = [path.parent.name for path in masks(root)]
    patients = {case.id: case.patient for case in datasets.load("brats", root).cases}
    parts = {"train": names[2:5], "val": names[1:2], "test": [names[0], names[5]]}
    (tmp_path / "parts.json").write_text(json.dumps({split: [patients[n] for n in who] for split, who in parts.items()}))
    from_file = {"data__split": "file", "data__split_file": str(tmp_path / "parts.json"), "data__fractions": None}
    with pytest.raises(DataError, match="val split is empty.*1 of 6 cases are bad and left out") as error:
        load(tmp_path, config(root, **from_file))
    assert error.value.code == "DATA_EMPTY"


def test_networks_of_whole_volumes_know_what_was_left_out(tmp_path, root, capsys):
    found = load(
        tmp_path,
        tiny.config(
            "brats_roi",
            data__size=(16, 16, 16),
            data__root=str(root),
            data__phantom=None,
            data__bad_cases="skip",
            data__bad_share=0.2,
        ),
    )
    assert found.store.left_out.of == 6 and len(found.store) == 5 and "left out: " in capsys.readouterr().out


def test_rows_that_changed_are_reported_when_a_run_is_resumed(tmp_path, root, capsys):
    data = load(tmp_path, config(root))
    record = setup.record_of(config(root), data, 1)
    record["data"]["digest"] = "another"
    modes.checkpoint.write_record(tmp_path, record)
    modes.patients.same_data(tmp_path, data.store, Log(tmp_path), resumed=True)
    assert "WARNING the data changed since the run was started" in capsys.readouterr().out
