"""Laws of prediction's one loop, on pictures and on volumes: flips, ensembles, reruns, a case that fails."""

import csv
import dataclasses
import json
import shutil

import jax
import nibabel
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from jaxseg.data.formats import volumes
from jaxseg.data.records import Photo, Volume
from jaxseg.infer import cases
from jaxseg.infer import predict as prediction
from jaxseg.infer import run as runs
from jaxseg.models import functional
from jaxseg.programs import kept
from jaxseg.types import ConfigError
from tests import shares, untrained
from tests.forked import quickly
from tests.records import edit


@pytest.fixture(scope="module", params=[2, 3], ids=["pictures", "volumes"])
def run(request, tmp_path_factory):
    top = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        root = untrained.write(top / "set", request.param)
        tree = untrained.config(root, request.param)
        yield untrained.make(top / "run", tree), root / "images", tree.infer.to_dict()


def first(images):
    return volumes.read_volume(sorted(images.iterdir())[0])


def flipped(image: Volume) -> Volume:
    return Volume(np.ascontiguousarray(image.array[::-1]), image.affine, image.header, image.path)


def test_averaging_over_a_flip_makes_a_flipped_image_a_flipped_result(run):
    folder, images, settings = run
    image = first(images)
    axis = 0  # of the examples: rows of a picture, x of a volume
    for mirror, equal in (((), False), ((axis,), True)):
        opened = runs.open_run(folder, {**settings, "mirror": mirror})
        maps = []
        for given in (image, flipped(image)):
            found = opened.segment([given])
            whole = found.examples.orientation.restore(opened.probabilities(found)[..., 0])
            maps.append(whole if given is image else whole[::-1])
        assert np.allclose(*maps, atol=1e-6) == equal


def test_a_network_averaged_with_itself_is_itself_and_weights_of_others_count(run, tmp_path):
    folder, images, settings = run
    alone, twice = (runs.open_run(folder, {**settings, "ensemble": e}) for e in ((), (str(folder),)))
    image = [first(images)]
    np.testing.assert_allclose(twice.segment(image).logits, alone.segment(image).logits, atol=1e-6)
    assert alone.digest != twice.digest and len(twice.weights) == 2


@pytest.mark.usefixtures("without_jaxs_cache")
def test_a_program_of_an_earlier_start_gives_the_same_bits_and_is_not_traced(run, tmp_path, monkeypatch):
    folder, images, settings = run
    image, alone = [first(images)], {**settings, "batch_size": 1, "windows": 1}  # on one device
    traced, apply = [], functional.Network.apply
    monkeypatch.setattr(functional.Network, "apply", lambda *of, **options: traced.append(1) or apply(*of, **options))
    plain = runs.open_run(folder, alone).segment(image).logits
    monkeypatch.setenv(kept.SWITCH, "on")
    monkeypatch.setattr(kept.files, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(kept, "is_path", lambda name: False)  # the test's network is code of its own
    for traces in (True, False):
        traced.clear()
        np.testing.assert_array_equal(runs.open_run(folder, alone, keep=True).segment(image).logits, plain)
        assert bool(traced) == traces
    runs.open_run(folder, {**alone, "mirror": (0,)}, keep=True).segment(image)
    assert traced


def predict(run, output, **changes):
    said = []
    folder, images, settings = run
    code = prediction.predict(folder, images, output, settings={**settings, **changes}, say=said.append)
    return code, said


def test_a_run_of_a_gpu_predicts_here_in_float32_and_reports_it(run, tmp_path):
    folder, images, settings = run
    shutil.copytree(folder, tmp_path / "run")
    edit(tmp_path / "run", lambda record: record["config"]["train"].update(dtype="bfloat16"))
    code, said = predict((tmp_path / "run", images, settings), tmp_path / "out")
    assert code == 0 and any("computing in float32 on cpu; the run was trained in bfloat16" in line for line in said)
    here, there = (runs.open_run(f, settings).segment([first(images)]).logits for f in (folder, tmp_path / "run"))
    np.testing.assert_array_equal(here, there)
    assert not any("trained in" in line for line in predict(run, tmp_path / "own")[1])


@pytest.mark.fault("P4")
def test_a_rerun_skips_what_is_finished_and_makes_the_rest(run, tmp_path):
    folder, images, settings = run
    out = tmp_path / "out"
    code, said = predict(run, out, probabilities=True)
    assert code == 0 and said[-1] == f"8 of 8 written to {out}"
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != cases.DONE}
    assert len(made) == 24 and len((out / cases.DONE).read_text().splitlines()) == 8
    assert predict(run, out, probabilities=True)[1][-1] == f"0 of 8 written to {out}; 8 were finished before and skipped"
    said = predict(run, out, probabilities=True, batch_size=3, windows=1)[1]  # keys that decide no voxel
    assert said[-1].endswith("8 were finished before and skipped")
    assert {path: path.stat().st_mtime_ns for path in made} == made
    next(path for path in made if "overlays" in str(path)).unlink()
    with open(out / cases.DONE, "a") as file:
        file.write('{"case": "cut o')  # a kill in the middle of a line
    assert predict(run, out, probabilities=True)[1][-1] == f"1 of 8 written to {out}; 7 were finished before and skipped"
    assert predict(run, out, probabilities=True, mirror=(0,))[1][-1] == f"8 of 8 written to {out}"


def test_a_changed_input_is_segmented_again(run, tmp_path):
    folder, images, settings = run
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted(images.iterdir())[:2]:
        (source / path.name).write_bytes(path.read_bytes())
    moved = (folder, source, settings)
    predict(moved, tmp_path / "out")
    paths = sorted(source.iterdir())
    paths[1].write_bytes(paths[0].read_bytes())
    assert predict(moved, tmp_path / "out")[1][-1].startswith("1 of 2 written")


PATH = "import sys; sys.path.append('tests/train')\n"  # where the run's network lies
KILL = """
import os, signal
replace, number = os.replace, iter(range(100))
def killing(here, there):
    if "/out/" in str(there) and next(number) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(here, there)
os.replace = killing
"""


@pytest.mark.full
@pytest.mark.fault("P4")
def test_a_kill_while_results_are_written_leaves_whole_files_and_the_next_start_makes_the_rest(run, tmp_path, program):
    folder, images, _ = run
    flags = ("--mode=predict", f"--workdir={folder}", f"--input={images}", f"--output={tmp_path / 'out'}")
    environment = {**quickly(), "JAXSEG_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    assert program.start(*flags, environment=environment, before=PATH + KILL).end().returncode == -9
    left = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".png", ".nii", ".gz") and path.name[0] != "."]
    assert left
    for path in left:
        volumes.read_volume(path)
    done = program.start(*flags, environment=environment, before=PATH).end()
    assert done.returncode == 0 and "were finished before and skipped" in done.stdout, done
    assert not list((tmp_path / "out").rglob(".*.tmp"))


@pytest.mark.fault("P6")
def test_any_error_of_one_case_leaves_the_others(run, tmp_path, monkeypatch):
    real, calls = runs.Run.segment, []

    def segment(self, images, chosen=None):
        calls.append(images)
        if len(calls) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of\nmemory")
        return real(self, images, chosen)

    monkeypatch.setattr(runs.Run, "segment", segment)
    code, said = predict(run, tmp_path / "out")
    assert code == 65 and said[-1] == f"7 of 8 written to {tmp_path / 'out'}; 1 failed"
    assert sum(line.startswith("FAILED 1: RuntimeError: RESOURCE_EXHAUSTED: out of memory") for line in said) == 1
    monkeypatch.undo()
    assert predict(run, tmp_path / "out")[1][-1] == f"1 of 8 written to {tmp_path / 'out'}; 7 were finished before and skipped"


def test_the_record_decides_the_window_and_pictures_are_named(run, tmp_path):
    folder, images, settings = run
    if not isinstance(first(images).header, Photo):
        pytest.skip("volumes are never pictures")
    said = predict(run, tmp_path / "out")[1]
    assert any("8 of 8 inputs are pictures" in line and "(22.0, 44.0)" in line for line in said)
    dark, bright = tmp_path / "in", np.asarray(Image.open(sorted(images.iterdir())[0])).astype(np.uint16)
    dark.mkdir()
    Image.fromarray(bright).save(dark / "0.png")  # the same values in 16 bits
    Image.fromarray(bright * 200 + 2000).save(dark / "1.png")  # far above the window
    (dark / "2.webp").write_bytes(b"RIFF")
    code, said = predict((folder, dark, settings), tmp_path / "deep")
    assert code == 0 and any("not read: 1 .webp (2.webp)" in line for line in said)
    (doubt,) = [line for line in said if line.startswith("WARNING")]
    assert doubt.startswith("WARNING 1: of the image's values 2") and "window=(22.0, 44.0) leaves a single one" in doubt
    labels = [np.asarray(Image.open(tmp_path / name / "0.png")) for name in ("out", "deep")]
    np.testing.assert_array_equal(*labels)


def test_results_have_the_geometry_of_their_inputs(run, tmp_path):
    _, images, _ = run
    predict(run, tmp_path / "out")
    for path in images.iterdir():
        result = tmp_path / "out" / path.name
        if path.suffix == ".png":
            assert Image.open(result).size == Image.open(path).size
        else:
            assert (nibabel.load(result).affine == nibabel.load(path).affine).all()
    entry = json.loads((tmp_path / "out" / cases.DONE).read_text().splitlines()[0])
    assert all((tmp_path / "out" / name).is_file() for name in entry["files"])


def test_statistics_are_what_a_look_at_the_written_labels_gives(run, tmp_path):
    folder, images, settings = run
    out = tmp_path / "out"
    code, said = predict(run, out, statistics=True, overlay=False)
    assert code == 0 and any("statistics.csv" in line for line in said)
    rows = list(csv.DictReader((out / "statistics.csv").open()))
    assert list(rows[0]) == ["case", "structure", "voxels", "volume_ml", "area_mm2", "mean_intensity"]
    assert [row["case"] for row in rows] == sorted(path.name.split(".")[0] for path in images.iterdir())
    for row in rows:
        image, written = (volumes.read_volume(next(place.glob(f"{row['case']}.*"))) for place in (images, out))
        inside = written.array == 1
        assert int(row["voxels"]) == inside.sum() > 0 and row["area_mm2"] == ""
        assert float(row["mean_intensity"]) == pytest.approx(image.array[inside].mean(), rel=1e-6)
        if isinstance(image.header, Photo):
            assert row["volume_ml"] == ""
        else:
            assert float(row["volume_ml"]) == pytest.approx(inside.sum() * np.prod(image.header.get_zooms()[:3]) / 1000, rel=1e-6)
        one = json.loads((out / "statistics" / f"{row['case']}.json").read_text())
        assert one["structures"][0]["voxels"] == inside.sum()
    (out / "statistics.csv").unlink()
    predict(run, out, statistics=True, overlay=False)  # nothing is computed again, and the table is whole
    assert list(csv.DictReader((out / "statistics.csv").open())) == rows


def test_uncertainty_lies_in_the_image_and_is_what_scipy_and_numpy_give(run, tmp_path):
    folder, images, settings = run
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    opened = runs.open_run(folder, {**settings, "ensemble": (str(other),)})
    weights = opened.weights[0], jax.tree.map(lambda a: a * 1.25, opened.weights[1])
    opened = dataclasses.replace(opened, weights=weights)
    image = first(images)
    found = opened.segment([image])
    p = opened.probabilities(found)[..., 0].astype(np.float64)
    expected = scipy.stats.entropy(np.stack([p, 1 - p]), base=2)
    np.testing.assert_allclose(opened.uncertainty(found, "entropy")[..., 0], expected, atol=2e-5)
    members = [dataclasses.replace(opened, weights=(one,)) for one in weights]
    each = [member.probabilities(member.segment([image]))[..., 0] for member in members]
    np.testing.assert_allclose(opened.uncertainty(found, "variance")[..., 0], np.var(each, 0), atol=1e-6)
    assert np.var(each, 0).max() > 1e-6

    assert predict(run, tmp_path / "out", uncertainty="entropy", overlay=False)[0] == 0
    name = image.path.name.split(".")[0]
    written = nibabel.load(tmp_path / "out" / "uncertainty" / f"{name}.nii.gz")
    values = np.asarray(written.dataobj)
    if isinstance(image.header, Photo):
        values = np.swapaxes(values[:, :, 0], 0, 1)  # columns, rows
    else:
        np.testing.assert_array_equal(written.affine, image.affine)
    alone = runs.open_run(folder, settings)
    found = alone.segment([image])
    np.testing.assert_allclose(values, found.examples.orientation.restore(alone.uncertainty(found, "entropy")[..., 0]), atol=1e-6)
    with pytest.raises(ConfigError, match="needs an ensemble, but this is a single run; give more runs"):
        predict(run, tmp_path / "none", uncertainty="variance")


def test_several_processes_share_the_cases_and_agree_on_the_exit_code(run, tmp_path, monkeypatch):
    folder, images, settings = run
    assert predict(run, tmp_path / "one")[0] == 0
    out, said, real = tmp_path / "out", [[], [], []], runs.Run.segment

    def work(share):
        return prediction.predict(folder, images, out, settings=settings, say=said[share.index].append, share=share)

    def segment(self, found, chosen=None):
        if found[0].path.name.startswith("4."):  # the second case of process 1
            raise RuntimeError("broken")
        return real(self, found, chosen)

    monkeypatch.setattr(runs.Run, "segment", segment)
    assert shares.run(3, work) == [65] * 3
    assert said[0][-1] == f"7 of 8 written to {out}; 1 failed"
    taken = [[line.partition(":")[0] for line in lines if " voxels" in line or " pixels" in line] for lines in said]
    assert taken == [["0", "3", "6"], ["1", "7"], ["2", "5"]] and any(
        "FAILED 4: RuntimeError: broken" in line for line in said[1]
    )
    monkeypatch.undo()
    assert (
        predict(run, out)[1][-1] == f"1 of 8 written to {out}; 7 were finished before and skipped"
    )  # by one process, of three processes' results
    for path in (path for path in (tmp_path / "one").iterdir() if path.name != cases.DONE and path.is_file()):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_what_stops_one_process_stops_all_with_its_code(run, tmp_path):
    folder, images, settings = run
    (tmp_path / "few").mkdir()
    shutil.copy(sorted(images.iterdir())[0], tmp_path / "few")
    for origins, output, code in (
        ([images, tmp_path / "few"], tmp_path / "out", 78),  # they see other cases
        ([images, images], images, 64),
    ):
        work = lambda share, o=origins, p=output: prediction.predict(
            folder, o[share.index], p, settings=settings, say=str, share=share
        )
        assert [error.exit_code for error in shares.run(2, work)] == [code] * 2


def test_of_many_classes_the_largest_are_listed():
    few = prediction.Written([], {"liver": 3, "spleen": 0}, "voxels", "")
    assert prediction._sizes(few, (1, 7)) == "liver (1) 3 voxels, spleen (7) 0 voxels"
    many = few._replace(counts={f"s{k}": k % 20 for k in range(40)}, unit="pixels")
    text = prediction._sizes(many, range(40))
    assert text.startswith("38 of 40 classes found: s19 (19) 19 pixels, s39 (39) 19 pixels, s18") and text.endswith(
        " and 26 more"
    )
    assert prediction._sizes(many._replace(counts=dict.fromkeys(many.counts, 0)), range(40)) == "0 of 40 classes found"
