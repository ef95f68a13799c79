"""Weights go back to PyTorch: a public definition takes them, and an nnU-Net gets its own checkpoint back."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra [parity]")

from jaxseg import checkpoint  # noqa: E402
from jaxseg.exporting import contents, torch_file  # noqa: E402
from jaxseg.exporting.export import export  # noqa: E402
from jaxseg.importing import command_line  # noqa: E402
from jaxseg.models import create_model, functional  # noqa: E402
from jaxseg.types import CheckpointError, ConfigError, MismatchError  # noqa: E402
from jaxseg.weights import from_torch, torch_files, torch_write  # noqa: E402
from tests import untrained  # noqa: E402
from tests.importing import setups  # noqa: E402
from tests.records import edit  # noqa: E402


@pytest.mark.full  # imports MONAI
def test_monais_network_takes_the_weights_of_ours(tmp_path):
    nets = pytest.importorskip("monai.networks.nets", reason="the extra [parity]")
    peer = nets.UNETR(1, 2, (32, 32, 48), feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2).eval()
    torch.save(peer.state_dict(), tmp_path / "theirs.pth")
    options = {"image_size": (32, 32, 48), "depth": 12, "taps": (4, 7, 10)}
    about = {"name": "unetr_test", "in_channels": 1, "num_classes": 2, "rank": 3, "options": options}
    network, params, state = functional.split(create_model("unetr_test", in_channels=1, num_classes=2, **options))
    run = contents.Contents(tmp_path, {"model": about}, {}, network, None, ((params, state),))
    (line,) = torch_file.write(tmp_path / "ours.pth", run, tmp_path / "theirs.pth")
    assert "monai.networks.nets.UNETR loads" in line
    peer.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    again = create_model("unetr_test", in_channels=1, num_classes=2, **options)
    assert not from_torch.load(again, peer.state_dict()).initialised
    assert all(np.array_equal(params[name], value) for name, value in functional.split(again)[1].items())
    (line,) = torch_file.write(tmp_path / "own.safetensors", run, None)
    assert "jaxseg's own names" in line and "--input=STATE_DICT" in line


@pytest.fixture(scope="module", params=["regions", "planes"])
def imported(request, tmp_path_factory):
    """(model folder of nnU-Net, first run folder that was made of it)."""
    root = tmp_path_factory.mktemp(request.param)
    model = setups.write_model(root / "model", request.param)
    assert command_line.main(["nnunet", str(model), f"--output={root / 'runs'}"]) == 0
    return model, sorted((root / "runs").glob("fold_*"))[0]


def test_an_imported_nnunet_leaves_as_the_checkpoint_that_it_was(imported, tmp_path):
    model, run = imported
    settings, lines = checkpoint.find_record(run)["config"]["infer"], []
    export(run, tmp_path / "back", settings=settings, format="nnunet", say=lines.append)
    assert "nnUNetv2_predict_from_modelfolder" in lines[1]
    original = next((model / run.name).glob("checkpoint_*.pth"))
    theirs = torch.load(original, weights_only=False)
    ours = torch.load(tmp_path / "back" / run.name / "checkpoint_final.pth", weights_only=True)
    assert list(ours["network_weights"]) == list(theirs["network_weights"])
    for key, value in theirs["network_weights"].items():
        assert torch.equal(ours["network_weights"][key], value), key
    assert ours["trainer_name"] == theirs["trainer_name"]
    assert ours["inference_allowed_mirroring_axes"] == theirs["inference_allowed_mirroring_axes"]
    assert ours["init_args"]["configuration"] == theirs["init_args"]["configuration"]
    assert json.loads((tmp_path / "back" / "plans.json").read_text()) == json.loads((model / "plans.json").read_text())
    assert command_line.main(["nnunet", str(tmp_path / "back"), f"--output={tmp_path / 'again'}", "--folds=0"]) == 0
    first, second = (checkpoint.load_weights(path)[0] for path in (run, tmp_path / "again" / run.name))
    assert first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)


@pytest.mark.parametrize("imported", ["planes"], indirect=True)
def test_a_run_that_began_from_an_imported_one_goes_back_if_it_prepares_images_alike(imported, tmp_path):
    model, run = imported
    settings = checkpoint.find_record(run)["config"]["infer"]
    tuned = shutil.copytree(run, tmp_path / "tuned")

    def trained(record):
        del record["imported"]
        record["config"]["model"]["init"] = str(run)

    edit(tuned, trained)
    export(tuned, tmp_path / "back", settings=settings, format="nnunet", say=lambda line: None)
    edit(tuned, lambda record: record["recipe"].update(spacing=[2.0] * 3))
    with pytest.raises(MismatchError, match="differs from the imported one in its recipe"):
        export(tuned, tmp_path / "other", settings=settings, format="nnunet")
    edit(tuned, lambda record: record["config"]["model"].update(init=""))
    with pytest.raises(MismatchError, match="jaxseg import nnunet"):
        export(tuned, tmp_path / "other", settings=settings, format="nnunet")
    edit(run, lambda record: record["imported"].update(file=str(tmp_path / "gone.pth")))
    with pytest.raises(CheckpointError, match="--input="):
        export(run, tmp_path / "other", settings=settings, format="nnunet")
    like = next((model / run.name).glob("checkpoint_*.pth"))
    export(run, tmp_path / "other", settings=settings, format="nnunet", like=like, say=lambda line: None)
    edit(run, lambda record: record["imported"].update(file=str(like)))


def test_options_that_would_do_nothing_are_refused(tmp_path):
    folder = untrained.make(tmp_path / "run", untrained.config(untrained.write(tmp_path / "set", 2), 2))
    settings = checkpoint.find_record(folder)["config"]["infer"]
    for output, given, message in (
        ("m.pth", {"licence": "CC0"}, "no model card"),
        ("m.jaxseg", {"like": tmp_path / "x.pth"}, "--format=torch"),
        ("m.pth", {"format": "nnunet"}, "writes a folder"),
        ("m.pth", {"settings": {**settings, "ensemble": (str(folder),)}}, "holds one network"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(folder, tmp_path / output, **{"settings": settings, **given})
    lines = []
    export(folder, tmp_path / "own.pth", settings=settings, say=lines.append)
    assert "no public definition" in lines[0]
    params = checkpoint.load_weights(folder)[0]
    own = torch.load(tmp_path / "own.pth", weights_only=True)
    np.testing.assert_array_equal(own["first.weight"].numpy(), params["first.weight"].transpose(3, 2, 0, 1))


def test_a_checkpoint_of_nested_values_is_what_pytorch_and_we_read(tmp_path):
    tree = {"a": {"b": [1, -2, 1 << 40, 0.5], 3: ("x", None, True)}, "w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    torch_write.write_checkpoint(tmp_path / "c.pth", tree)
    for found in (torch.load(tmp_path / "c.pth", weights_only=True), torch_files.load(tmp_path / "c.pth")):
        assert found["a"] == tree["a"] and np.array_equal(np.asarray(found["w"]), tree["w"])
    with pytest.raises(TypeError, match="a has a set"):
        torch_write.write_checkpoint(tmp_path / "d.pth", {"a": {1}})
