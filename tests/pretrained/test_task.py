"""Several models of a task merge into one map by its table, in the crop that a first model gives."""

import json

import nibabel
import numpy as np
import pytest

from jaxseg import checkpoint
from jaxseg.data.formats import volumes
from jaxseg.importing import command_line as importing
from jaxseg.infer.run import open_run
from jaxseg.models import create_model
from jaxseg.pretrained import command_line, task
from jaxseg.types import ConfigError
from jaxseg.weights import from_torch

SHAPE = (20, 17, 19)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported run of the classes a and b, and a scan."""
    top = tmp_path_factory.mktemp("task")
    options = dict(width=8, blocks_down=(1, 1), blocks_up=(1,))
    np.savez(top / "weights.npz", **from_torch.export(create_model("segresnet", in_channels=1, num_classes=3, seed=4, **options)))
    words = ["monai", str(top / "weights.npz"), f"--output={top / 'run'}", "--network=segresnet", "--spacing=scan"]
    words += [f"--option={key}={value}" for key, value in options.items()]
    words += ["--orientation=ras", "--intensity=zscore", "--window=16,16,16", "--overlap=0", "--blend=constant"]
    assert importing.main([*words, "--activation=softmax", "--classes=a,b"]) == 0
    scan = np.zeros(SHAPE, np.float32)
    scan[6:13, 5:12, 4:15] = np.random.default_rng(0).normal(3, 1, (7, 7, 11))
    (top / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(scan, np.diag([-1.0, 1.0, 2.0, 1.0])), top / "in" / "scan.nii.gz")
    return top


@pytest.fixture(scope="module")
def alone(place):
    """(the run, the scan, what the run alone finds in it, in the file's order)."""
    run = open_run(place / "run", checkpoint.read_record(place / "run")["config"]["infer"])
    image = volumes.read_volume(place / "in" / "scan.nii.gz")
    found = run.segment([image])
    return run, image, found.examples.orientation.restore(found.labels)


def write(place, **content):
    path = place / "task.json"
    path.write_text(json.dumps({"labels": {"left": 300, "b": 2}, "models": [], **content}))
    return path


def test_classes_merge_by_names_and_later_models_win(place, alone, capsys):
    _, _, labels = alone
    assert set(np.unique(labels)) == {0, 1, 2}
    models = [{"run": "run", "classes": {"a": "left"}}, {"run": "run", "classes": {"a": "b", "b": None}}]
    path = write(place, models=models, notes=["weights: not for commercial use"])
    assert command_line.main([f"--task={path}", f"--input={place / 'in'}", f"--output={place / 'out'}"]) == 0
    merged = np.asarray(nibabel.load(place / "out" / "scan.nii.gz").dataobj)
    np.testing.assert_array_equal(merged, np.where(labels > 0, 2, 0))  # b from the first, a as b from the second
    said = capsys.readouterr().out
    assert "note: weights: not for commercial use" in said and "left 0" not in said and "b " in said
    first = task.read(write(place, models=models[:1]))
    merged = first.segment([alone[1]])
    assert merged.dtype == np.uint16
    np.testing.assert_array_equal(merged, np.array([0, 300, 2])[labels])


def test_the_crop_is_the_box_of_its_classes_with_a_margin_in_mm(place, alone):
    run, image, labels = alone
    opened = task.read(
        write(place, models=[{"run": "run", "classes": {"a": "left"}}], crop={"run": "run", "classes": ["b"], "margin": 3})
    )
    where = np.argwhere(labels == 2)
    low = np.maximum(where.min(0) - (3, 3, 1), 0)
    high = np.minimum(where.max(0) + 1 + (3, 3, 1), SHAPE)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    piece = task.cut(image, box)
    np.testing.assert_allclose(piece.affine @ [0, 0, 0, 1], image.affine @ [*low, 1])
    found = run.segment([piece])
    expected = np.zeros(SHAPE, np.uint16)
    expected[box] = np.array([0, 300, 2])[found.examples.orientation.restore(found.labels)]
    np.testing.assert_array_equal(opened.segment([image]), expected)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"models": [{"run": "run"}]}, "the class a of run is not in labels"),
        ({"models": [{"run": "run", "classes": {"c": "b"}}]}, "class of run"),
        ({"models": []}, "names no model"),
        ({"models": [{}]}, "KeyError"),
        ({"labels": {"b": 70000}}, "1 to 65535"),
        ({"models": [{"run": "run"}], "more": 1}, "may have crop and notes"),
    ],
)
def test_a_table_that_says_too_little_is_refused(place, content, message):
    with pytest.raises(ConfigError, match=message):
        task.read(write(place, **content))
