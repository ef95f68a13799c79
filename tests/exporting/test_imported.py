"""Models that nnU-Net trained, imported, leave as one file that finds what `jaxseg predict` finds."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="the folders of the tests are written by PyTorch: the extra [parity]")
pytest.importorskip("flatbuffers", reason="jax.export writes with it: the extra [export]")

from jaxseg import checkpoint  # noqa: E402
from jaxseg.data.formats import volumes  # noqa: E402
from jaxseg.exporting import card, export  # noqa: E402
from jaxseg.exporting.runner import model as runner  # noqa: E402
from jaxseg.importing import command_line  # noqa: E402
from jaxseg.infer import postprocess  # noqa: E402
from jaxseg.infer.run import open_run  # noqa: E402
from tests.importing import setups  # noqa: E402

SLOW = [pytest.param(name, marks=pytest.mark.full) for name in sorted(setups.SETUPS) if name != "regions"]


@pytest.mark.parametrize("name", ["regions", *SLOW])
def test_folds_of_an_imported_model_leave_as_one_file(name, tmp_path, monkeypatch):
    one = jax.local_devices()[:1]  # as the runner's: eight that share a batch would round some sums of 16 bits otherwise
    monkeypatch.setattr(jax, "local_devices", lambda *args, **options: one)
    assert command_line.main(["nnunet", str(setups.write_model(tmp_path / "model", name)), f"--output={tmp_path / 'runs'}"]) == 0
    run, *others = sorted((tmp_path / "runs").glob("fold_*"))
    assert "trained by nnU-Net" in (run / card.NAME).read_text()
    settings = checkpoint.find_record(run)["config"]["infer"] | {"ensemble": tuple(map(str, others))}
    export.export(run, tmp_path / "model.jaxseg", settings=settings, say=lambda line: None)
    paths = sorted(setups.write_case(tmp_path / "imagesTs", name).iterdir())
    found = runner.Model(tmp_path / "model.jaxseg").segment([str(path) for path in paths])
    opened = open_run(run, settings)
    theirs = opened.segment([volumes.read_volume(path) for path in paths])
    orientation = theirs.examples.orientation
    steps = postprocess.read_steps(run) if settings["postprocess"] else []
    classes = postprocess.apply(theirs.labels, steps, orientation.spacing)
    values = np.array([0, *checkpoint.find_record(run)["values"]])
    np.testing.assert_array_equal(found.labels, orientation.restore(values[classes]))
    np.testing.assert_allclose(found.probabilities, orientation.restore(opened.probabilities(theirs)), atol=1e-5)
    assert len(np.unique(found.labels)) > 1
