"""An exported model gives what `jaxseg predict` gives, in a process that has jax, numpy and scipy alone."""

import ast
import doctest
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="jax.export writes with it: the extra [export]")

from jaxseg import checkpoint  # noqa: E402
from jaxseg.data.formats import volumes  # noqa: E402
from jaxseg.exporting import bundle, card, export, program  # noqa: E402
from jaxseg.exporting.runner import model as runner  # noqa: E402
from jaxseg.infer import postprocess  # noqa: E402
from jaxseg.infer.predict import predict  # noqa: E402
from jaxseg.infer.run import open_run  # noqa: E402
from jaxseg.types import ConfigError, MismatchError  # noqa: E402
from tests import untrained  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
ISOLATED = """
import importlib.abc, runpy, sys
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {'jaxseg', 'flax', 'optax', 'orbax', 'grain', 'nibabel', 'absl', 'ml_collections', 'einops'}:
            raise ImportError(f"{name}: not here")
sys.meta_path.insert(0, Nothing())
import runner
assert runner.main(%r) == 0
assert not [name for name in sys.modules if name.startswith("jaxseg")]
assert ".jaxseg" in sys.modules["flatbuffers"].__file__  # not the installed package
"""


@pytest.fixture(scope="module", params=[2, 3], ids=["pictures", "volumes"])
def run(request, tmp_path_factory):
    """(run folder, folder of its images, settings, exported file)."""
    top = tmp_path_factory.mktemp("export")
    root = untrained.write(top / "set", request.param)
    folder = untrained.make(top / "run", untrained.config(root, request.param))
    settings = checkpoint.find_record(folder)["config"]["infer"]
    export.export(folder, top / "model.jaxseg", settings=settings, say=lambda line: None)
    return folder, root / "images", settings, top / "model.jaxseg"


def test_a_process_without_jaxseg_segments_as_predict_does(run, tmp_path):
    folder, images, settings, file = run
    one = sorted(images.iterdir())[0]
    ours = [tmp_path / f"labels{''.join(one.suffixes)}", tmp_path / "maps.npy"]
    arguments = ["--input", str(one), "--output", str(ours[0]), "--probabilities", str(ours[1])]
    code = f"import sys; sys.path.insert(0, {str(file)!r})" + ISOLATED % arguments
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, timeout=300)
    predict(folder, one, tmp_path / "theirs", settings=settings, say=lambda line: None)
    opened = open_run(folder, settings)
    found = opened.segment([volumes.read_volume(one)])
    maps = np.moveaxis(found.examples.orientation.restore(opened.probabilities(found)), -1, 0)
    np.testing.assert_allclose(np.moveaxis(np.load(ours[1]), -1, 0), maps, atol=1e-5)
    mine, theirs = volumes.read_volume(ours[0]), volumes.read_volume(tmp_path / "theirs" / ours[0].name.replace("labels", "0"))
    np.testing.assert_array_equal(mine.array, theirs.array)
    np.testing.assert_array_equal(mine.affine, theirs.affine)
    assert 0.2 < (mine.array > 0).mean() < 0.8


def test_flips_several_weights_and_post_processing_are_in_the_file(run, tmp_path):
    folder, images, settings, _ = run
    config = untrained.config(images.parent, checkpoint.find_record(folder)["model"]["rank"], seed=7)
    other = untrained.make(tmp_path / "other", config)
    steps = [{"step": "keep_largest", "options": {}, "dice": [0.0, 0.0]}]
    (folder / postprocess.FILE).write_text(json.dumps(steps))
    chosen = {**settings, "mirror": (0,), "ensemble": (str(other),), "postprocess": True}
    export.export(folder, tmp_path / "m.jaxseg", settings=chosen, threshold=0.4, say=lambda line: None)
    (folder / postprocess.FILE).unlink()
    one = sorted(images.iterdir())[1]
    model, opened = runner.Model(tmp_path / "m.jaxseg"), open_run(folder, chosen, threshold=0.4)
    assert model.about["program"]["sets"] == 2 and model.about["threshold"] == 0.4
    mine, theirs = model.segment(str(one)), opened.segment([volumes.read_volume(one)])
    labels = postprocess.apply(theirs.labels, steps)
    np.testing.assert_array_equal(mine.labels, theirs.examples.orientation.restore(labels))
    np.testing.assert_allclose(mine.probabilities, theirs.examples.orientation.restore(opened.probabilities(theirs)), atol=1e-5)


def test_weights_are_in_the_file_once_and_the_program_takes_batches_of_any_size(run):
    _, _, _, file = run
    with zipfile.ZipFile(file) as content:
        about, names = json.loads(content.read("model.json")), content.namelist()
    assert about["program"]["batch"] is None and about["program"]["platforms"] == list(program.PLATFORMS)
    arrays = np.load(file)
    kept = [name for name in names if name.startswith("weights/")]
    assert sorted(kept) == sorted(f"weights/0/{name}.npy" for name in about["program"]["weights"])
    assert arrays[f"weights/0/{about['program']['weights'][0]}"].dtype == np.float32


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    folder, _, settings, file = run
    export.export(folder, tmp_path / "again.jaxseg", settings=settings, say=lambda line: None)
    with zipfile.ZipFile(file) as one, zipfile.ZipFile(tmp_path / "again.jaxseg") as other:
        assert [name for name in one.namelist() if one.read(name) != other.read(name)] == []


def test_the_joined_runner_defines_every_name_once_and_imports_nothing_else():
    tree = ast.parse(bundle.runner_source())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names += [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert len(set(names)) == len(names) > 40
    found = {n.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for n in (a.name for a in node.names)}
    found |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found <= {*sys.stdlib_module_names, "numpy", "scipy", "jax", "PIL"}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r["recipe"].update(extra=["kmeans"]), "data.extra=kmeans"),
        (lambda r: r["recipe"].update(target="edges"), "data.target=edges"),
        (lambda r: r["recipe"].update(filter="mine"), "data.filter=mine"),
        (lambda r: r["recipe"].update(intensity="zscore+mine"), "data.intensity=zscore+mine"),
        (lambda r: r["recipe"].update(newer=3), "data.newer=3"),
        (lambda r: r["config"]["data"].update(whole=True), "data.whole=True"),
        (lambda r: r.update(dataset="brats_arrays"), "data.dataset=brats_arrays"),
    ],
)
def test_what_an_exported_model_cannot_do_is_refused_by_name(run, change, message):
    from jaxseg.exporting import contents

    record = json.loads((run[0] / "run.json").read_text())
    change(record)
    with pytest.raises(MismatchError, match=re.escape(message)):
        contents.check_preparation(record)


def test_files_and_settings_that_do_not_fit_are_refused_in_one_line(run, tmp_path, monkeypatch):
    folder, _, settings, file = run
    for output, given, message in (
        (tmp_path / "model.zip", {}, "suffix names no format"),
        (file, {}, "exists"),
        (tmp_path / "model.onnx", {"format": "bundle"}, "ends in .jaxseg"),
        (tmp_path / "m.jaxseg", {"format": "bundel"}, "did you mean bundle"),
        (tmp_path / "m.onnx", {"settings": {**settings, "roi": "runs/roi"}}, "infer.roi=runs/roi: this format holds one network"),
    ):
        with pytest.raises(ConfigError, match=message):
            export.export(folder, output, **{"settings": settings, **given})
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ConfigError, match="pip install"):
        export.export(folder, tmp_path / "m.jaxseg", settings=settings)


def test_a_card_says_what_the_record_and_the_evaluation_say(run, tmp_path):
    folder, _, settings, file = run
    path = card.write(folder)
    text = path.read_text()
    assert "Not a medical device" in text and "test 3, train 3, val 2" in text
    assert "has not been scored" in text and "Licence of the weights: not stated" in text
    path.write_text(text.replace("Licence of the weights: not stated", "Licence of the weights: CC0"))
    score = {"mean": 0.5, "std": 0.125, "n": 3}
    scores = {"foreground": {"dice": score, "images": 3, "missed": 1, "false_alarms": 0, "empty": 0}}
    evaluation = {"examples": 3, "grid": "the cases' own grid: 30 x 44", "scores": scores, "pooled_dice": 0.75}
    (folder / card.EVALUATION).write_text(json.dumps(evaluation))
    again = card.write(folder).read_text()
    (folder / card.EVALUATION).unlink()
    path.unlink()
    assert "| foreground | 0.5000 +- 0.1250 (3) | 1 of 3 | 0 |" in again and "all voxels together: 0.7500" in again
    assert "weights: CC0" in again
    with zipfile.ZipFile(file) as content:
        inside = content.read(card.NAME).decode()
    assert "threshold 0.5" in inside and "Not a medical device" in inside


@pytest.mark.slow  # three processes
def test_the_page_runs_as_printed(tmp_path, monkeypatch):
    """docs/export.md, its commands and then its Python, beside a run and a picture of the names that it uses."""
    data = untrained.write(tmp_path, 2)
    untrained.make(tmp_path / "runs" / "folder-quick", untrained.config(data, 2))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "01.png")
    page = (ROOT / "docs" / "export.md").read_text()
    block = re.findall(r"```console\n(.*?)```", page, re.DOTALL)[0]
    commands, shown = (re.findall(form, block, re.MULTILINE) for form in (r"^\$ (.*)$", r"^(?!\$ )(.*)$"))
    commands = "\n".join(commands)
    tiny = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'train')!r})"
    commands = commands.replace("jaxseg export", f'"{sys.executable}" -c "{tiny}; import jaxseg.__main__ as m; m.run()" export')
    (tmp_path / "page.sh").write_text("set -e\n" + commands.replace("python model", f'"{sys.executable}" model'))
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train")])
    said = subprocess.run(
        ["bash", "page.sh"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    alike = doctest.OutputChecker().check_output("\n".join(shown), said.stdout, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert said.returncode == 0 and alike, (said.stdout, said.stderr[-800:])
    assert volumes.read_volume(tmp_path / "labels.png").array.any()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "docs/export.md", "exec"), {})
    np.testing.assert_array_equal(np.load("labels.npy"), volumes.read_volume("labels.png").array)
