"""docs/plugins.md as a reader follows it: every file is written, every contract test called, and the command at its top run."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg.data.formats import own
from jaxseg.types import MismatchError
from jaxseg.utils import code

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FILES = {block.split()[1]: block for block in BLOCKS if block.startswith("# my_")}
TINY = (
    "--config.train.epochs=1 --config.data.size=(16,16) --config.train.batch_size=2 --config.data.fractions=(0.4,0.3,0.3) "
    "--config.eval.batch_size=2 --config.mesh.data=1 --workdir=run --json"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, and data in the layout of its data set."""
    top = tmp_path_factory.mktemp("plugins")
    for name, text in FILES.items():
        (top / name).write_text(text)
    random = np.random.default_rng(0)
    for part in ("pictures", "truth"):
        (top / "scans" / part).mkdir(parents=True)
    for i, patient in enumerate(("anna", "ben", "cem", "dora", "eva", "finn", "gus", "hana")):
        mask = np.zeros((20, 24), bool)
        mask[4 + i % 3 : 13, 6:18] = True
        picture = (random.integers(0, 60, (20, 24, 3)) + 120 * mask[..., None]).astype(np.uint8)
        (top / "scans" / "pictures" / f"{patient}_1.tiny").write_bytes(b"20 24\n" + picture.tobytes())
        Image.fromarray(mask * np.uint8(255)).save(top / "scans" / "truth" / f"{patient}_1.png")
    return top


@pytest.fixture
def here(folder, monkeypatch):
    """In that folder, in a process that has imported none of its files."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAXSEG_CACHE", str(folder / "cache"))
    monkeypatch.setattr(code, "_imported", {})
    monkeypatch.setattr(own, "_readers", {})
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield folder
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("unoptimised")
def test_every_part_of_the_page_passes_its_contract_test(here):
    checks = [block for block in BLOCKS if not block.startswith("# my_")]
    assert len(checks) == len(FILES) == 9 and max(block.count("\n") for block in FILES.values()) <= 32
    for block in checks:
        exec(compile(block, "docs/plugins.md", "exec"), {})


def test_the_command_of_the_page_trains_and_its_run_predicts(here):
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "jaxseg"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jaxseg", *words[1:], *TINY.split()],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    events = [json.loads(line) for line in done.stdout.splitlines()]  # nothing else is on the output of --json
    names = [event["event"] for event in events if event["event"] != "warning"]
    assert names == ["start", "compiled", "step", "epoch", "evaluation", "end"]
    assert events[-1]["code"] == 0 and "step compiled in" in done.stderr
    record = json.loads((here / "run" / "run.json").read_text())
    assert sorted(record["code"]) == sorted(name.removesuffix(".py") for name in FILES)
    rows = list(csv.DictReader((here / "run" / "evaluations" / "test@1" / "cases.csv").open()))
    assert all(float(row["area_error"]) >= 0 for row in rows)
    assert "area_error" in json.loads((here / "run" / "evaluation.json").read_text())["scores"]["lesion"]

    found = jaxseg.load("run").predict("scans/pictures/anna_1.tiny")
    assert found.labels.shape == (20, 24) and found.names == ("lesion",)
    (here / "my_format.py").write_text(FILES["my_format.py"] + "\n")  # another file than the one that training imported
    code._imported.clear()
    del sys.modules["my_format"]
    with pytest.raises(MismatchError, match="trained with a module 'my_format' that differs from .*--allow_code"):
        jaxseg.load("run")
