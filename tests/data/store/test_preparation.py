"""Preparing many cases: the same bytes for any number of workers and hosts, and nothing that is finished is done again."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle as pickle
import numpy as np
import pytest

from jaxseg.data.store import parts, per_case, preparing, stacked
from jaxseg.types import DataError
from jaxseg.utils import files
from tests.data import toy_set

ROOT = Path(__file__).parents[3]
VOLUMES = dataclasses.replace(toy_set.RECIPE, size=(8, 8, 4), intensity="ct", fit="patches")
LAYOUTS = {"stacked": (stacked, toy_set.RECIPE), "per case": (per_case, VOLUMES)}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def toy(root: Path, cases: int):
    """The same cases each time, down to the times of their files."""
    made = toy_set.make(root, cases)
    for path in root.iterdir():
        os.utime(path, ns=(1, 1))
    return made


def build(dataset, layout: str, **options):
    module, recipe = LAYOUTS[layout]
    lines: list[str] = []
    return module.open_or_build(dataset, recipe, log=lines.append, **options), lines


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): files.file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def prepared(monkeypatch):
    """The numbers of the cases that this process prepares."""
    numbers, prepare = [], parts.Parts.prepare
    monkeypatch.setattr(parts.Parts, "prepare", lambda self, i, left=1: (numbers.append(i), prepare(self, i, left))[1])
    return numbers


@pytest.mark.parametrize("layout", LAYOUTS)
def test_workers_change_no_byte_and_leave_nothing_behind(tmp_path, monkeypatch, prepared, layout):
    limit = 127
    dataset = dataclasses.replace(toy(tmp_path / "d", 8), map_mask=lambda raw: (raw > limit).astype(np.uint8))  # has no name
    alone, said = build(dataset, layout, workers=1)
    assert prepared == list(range(8))
    prepared.clear()
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "other"))
    several, also_said = build(dataset, layout, workers=2)
    assert not prepared and content(several.folder) == content(alone.folder)
    plain = lambda lines: [line.rpartition(",")[0] for line in lines if "/8 cases" not in line]  # without seconds and progress
    assert plain(also_said) == plain(said)
    assert [p.name for p in several.folder.parent.iterdir()] == [several.folder.name]
    several.verify()


def test_a_worker_is_sent_its_own_cases_alone(tmp_path):
    dataset = dataclasses.replace(toy(tmp_path / "d", 3), fixed_split=dict.fromkeys(map(str, range(1000)), "train"))
    of = lambda some: parts.Parts(
        tmp_path, some, VOLUMES, per_case.finish, per_case._sources(some, VOLUMES, "memmap", "float32", "")
    )
    whole = of(dataset)
    sent = [len(pickle.dumps(p.of(()))) for p in (whole, of(dataclasses.replace(dataset, cases=dataset.cases[:1])))]
    assert sent[0] == sent[1] < 8000
    some = whole.of(dataset.cases[1:], whole.sources.cases[1:])
    assert [some.sources.key(i) for i in range(2)] == [whole.sources.key(i) for i in (1, 2)]


@pytest.mark.parametrize("layout", ["stacked", pytest.param("per case", marks=pytest.mark.full)])
def test_what_was_finished_before_a_kill_or_a_bad_case_is_not_done_again(tmp_path, prepared, layout):
    dataset = toy(tmp_path / "d", 8)
    script = f"""
import os, signal
from pathlib import Path
from jaxseg.data.store import parts, preparing
from tests.data.store.test_preparation import build, toy
prepare = parts.Parts.prepare
preparing.TOGETHER = 0  # seconds of work that a kill may cost
parts.Parts.prepare = lambda self, i, left=1: os.kill(os.getpid(), signal.SIGKILL) if i == 3 else prepare(self, i, left)
build(toy(Path({str(tmp_path / "d")!r}), 8), {layout!r}, workers=1)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=100)
    assert done.returncode == -signal.SIGKILL
    good = dataset.cases[5].mask.read_bytes()
    dataset.cases[5].mask.write_bytes(good[:-10])
    with pytest.raises(DataError, match="mask05"):
        build(dataset, layout)
    assert prepared == [3, 4, 5]
    dataset.cases[5].mask.write_bytes(good)  # another store, since a file has changed, of the same other parts
    prepared.clear()
    store, _ = build(dataset, layout)
    assert prepared == [5, 6, 7] and len({row["case"] for row in store.rows}) == 8
    store.verify()


@pytest.mark.fault("F20")
def test_the_work_of_a_worker_that_is_killed_is_done_by_the_main_process(tmp_path, prepared):
    dataset = toy(tmp_path / "d", 6)

    def classes(raw):
        if sys.modules["__main__"].__spec__ and sys.modules["__main__"].__spec__.name == "jaxseg.data.store.preparing":
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory ends
        return toy_set.to_classes(raw)

    store, _ = build(dataclasses.replace(dataset, map_mask=classes), "per case", workers=2)
    assert prepared == list(range(6)) and len(store) == 6
    store.verify()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_the_first_bad_case_is_named_whoever_met_it(tmp_path, workers):
    dataset = toy(tmp_path / "d", 6)
    for i in (2, 4):
        dataset.cases[i].mask.write_bytes(dataset.cases[i].mask.read_bytes()[:-10])
    with pytest.raises(DataError, match="mask02"):
        build(dataset, "stacked", workers=workers)


def test_hosts_prepare_a_share_each_and_build_one_store(tmp_path, monkeypatch, prepared):
    dataset, both, found = toy(tmp_path / "d", 7), threading.Barrier(2), {}
    by_whom = []
    note = parts.Parts.prepare
    monkeypatch.setattr(
        parts.Parts,
        "prepare",
        lambda self, i, left=1: (by_whom.append((threading.current_thread().name, i)), note(self, i, left))[1],
    )

    def host(index: int) -> None:
        share = preparing.HostShare(index, 2, both.wait)
        found[index] = build(dataset, "per case", share=share)[0]

    threads = [threading.Thread(target=host, args=(i,), name=str(i)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(by_whom) == [("0", 0), ("0", 2), ("0", 4), ("0", 6), ("1", 1), ("1", 3), ("1", 5)]
    assert found[0].folder == found[1].folder and found[0].digest == found[1].digest


def test_workers_are_as_many_as_the_memory_holds(monkeypatch):
    part = parts.PreparedCase(Path("x"), [], {"image": [100 << 20, ""]}, {}, "token", ".npy")
    monkeypatch.setattr(preparing, "cores", lambda: 8)
    need = preparing.INTERPRETER + preparing.PASSES * (200 << 20)  # the largest case has files of twice the bytes
    for fit in (0, 1, 3, 100):
        monkeypatch.setattr(preparing.memory, "available", lambda fit=fit: 2 * fit * need)
        assert preparing.allowed(part, 50, 100, left=40) == min(max(1, fit), 8)
    assert preparing.allowed(part, 50, 100, left=2) == 2
