"""A network of one's own, named by its file: predicting imports the file that training imported, and no other unasked."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg import checkpoint, modes, recorded
from jaxseg.infer import run as runs
from jaxseg.types import MismatchError
from jaxseg.utils import code
from tests import untrained
from tests.records import edit

ROOT = Path(__file__).parents[2]
NETWORK = (ROOT / "tests/train/tiny_volumes.py").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run of "own_net:Tiny", the folder that own_net.py lies in, images)"""
    top = tmp_path_factory.mktemp("own")
    (top / "own_net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        patch.syspath_prepend(top)
        root = untrained.write(top / "set", 2)
        folder = untrained.make(top / "run", untrained.config(root, 2, model__name="own_net:Tiny"))
    del sys.modules["own_net"]
    return folder, top, root / "images"


@pytest.fixture
def fresh(run, monkeypatch):
    """As a new process that has imported nothing by path."""
    monkeypatch.setattr(code, "_imported", {})
    monkeypatch.syspath_prepend(run[1])
    importlib.invalidate_caches()
    yield run
    sys.modules.pop("own_net", None)


def test_the_same_file_is_imported_without_a_question(fresh):
    folder, _, _ = fresh
    assert list(checkpoint.read_record(folder)["code"]) == ["own_net"]
    settings = recorded.get_config(str(folder)).infer
    assert runs.open_run(folder, settings).recipe.size == (16, 16) and "own_net" in sys.modules


@pytest.mark.fault("P10")
def test_a_record_that_names_a_module_without_a_digest_imports_nothing(fresh, tmp_path):
    folder, top, _ = fresh
    before = (folder / "run.json").read_text()
    (top / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    try:
        for change in (
            lambda record: record["model"].update(name="evil:Net"),
            lambda record: record["config"]["optim"].update(name="evil:Net"),
            lambda record: record["config"]["schedule"].update(name="evil:Net"),
        ):
            edit(folder, change)
            tree = recorded.get_config(str(folder))
            with pytest.raises(MismatchError, match="the module 'evil' but has no digest of it"):
                modes.evaluate(modes.Call(tree, folder))
            if "evil" in checkpoint.read_record(folder)["model"]["name"]:
                with pytest.raises(MismatchError, match="the module 'evil' but has no digest of it"):
                    modes.predict(modes.Call(tree, folder, input=str(top), output=str(tmp_path / "out")))
            (folder / "run.json").write_text(before)
    finally:
        (folder / "run.json").write_text(before)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("P10")
def test_another_file_of_that_name_is_refused_with_the_flag_that_allows_it(run, tmp_path):
    folder, top, images = run
    (tmp_path / "own_net.py").write_text(NETWORK + "\nprint('this is the other file')\n")
    flags = ["--mode=predict", f"--workdir={folder}", f"--input={images}", f"--output={tmp_path / 'out'}"]

    def predict(*more: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAXSEG_CACHE": str(top / "cache")}
        command = [sys.executable, "-m", "jaxseg.main", *flags, *more]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)

    refused = predict()
    assert refused.returncode == 78 and refused.stderr.count("\n") == 1 and str(tmp_path / "own_net.py") in refused.stderr
    assert "this is the other file" not in refused.stdout and not (tmp_path / "out").exists()
    (flag,) = re.findall(r"--\w+", refused.stderr)
    allowed = predict(flag)
    assert allowed.returncode == 0 and "this is the other file" in allowed.stdout, allowed.stderr
    assert len(list((tmp_path / "out").glob("[0-9].png"))) == len(list(images.iterdir()))
