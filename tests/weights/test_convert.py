"""The conversion command: what it writes is read back to the same bits, here and in PyTorch; mistakes have their codes."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxseg import checkpoint
from jaxseg.models import create_model, functional
from jaxseg.types import ConfigError, DataError, JaxsegError
from jaxseg.weights import convert, from_torch, torch_files, torch_write

ROOT = Path(__file__).parents[2]
NAME = "unet_test"
SOURCE = {
    **from_torch.export(create_model(NAME, in_channels=3, num_classes=5, seed=7)),
    "steps": np.array(3, np.int64),
}  # a key of no use here


def wrapped(tensors):
    return {f"module.{k}": v for k, v in tensors.items()}


@pytest.fixture
def file(tmp_path):
    """A PyTorch file of the network, without the key of no use."""
    torch_write.write(tmp_path / "theirs.pth", wrapped({k: v for k, v in SOURCE.items() if k != "steps"}))
    return tmp_path / "theirs.pth"


def run(*flags) -> int:
    return convert.main([f"--model={NAME}", "--channels=3", "--classes=5", *map(str, flags)])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_written_file_is_read_back_to_the_same_bits(tmp_path, suffix):
    kinds = [np.float32, np.float16, np.int64, np.uint8, bool, torch_files.dtype_of("bfloat16")]
    tensors = {f"block.{i}.w": np.arange(6).reshape(1, 2, 3).astype(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": np.array(5.0), "none": np.zeros((0, 4), np.float32), "t": np.arange(6.0).reshape(2, 3).T}
    torch_write.write(tmp_path / f"w{suffix}", tensors)
    assert_same(torch_files.read(tmp_path / f"w{suffix}"), tensors)


def test_pytorch_and_safetensors_read_what_is_written(tmp_path):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    for suffix in (".pth", ".safetensors"):
        torch_write.write(tmp_path / f"w{suffix}", SOURCE)
    theirs = torch.load(tmp_path / "w.pth", weights_only=True)
    assert_same({k: v.numpy() for k, v in theirs.items()}, SOURCE)
    numpy = pytest.importorskip("safetensors.numpy", reason="parity needs the extra [parity]")
    assert_same(numpy.load_file(tmp_path / "w.safetensors"), SOURCE)


def test_a_file_becomes_a_checkpoint_and_a_state_dict_again(tmp_path, file, capsys):
    assert run(f"--input={file}", f"--output={tmp_path / 'run'}") == 0
    assert "loaded" in capsys.readouterr().out
    params, state, _ = checkpoint.load_weights(tmp_path / "run")
    model = create_model(NAME, in_channels=3, num_classes=5)
    functional.assign(model, params, state)
    assert_same(from_torch.export(model), {k: v for k, v in SOURCE.items() if k != "steps"})

    torch_write.write(
        tmp_path / "like.pth",
        wrapped({k: np.zeros_like(v) for k, v in SOURCE.items()} | {"inc.num_batches_tracked": np.array(9)}),
    )
    with pytest.raises(JaxsegError, match="module.steps belongs to no tensor"):
        run("--to-torch", f"--input={tmp_path / 'run'}", f"--like={tmp_path / 'like.pth'}", f"--output={tmp_path / 'back.pth'}")
    (tmp_path / "keys.json").write_text(json.dumps([["steps$", None]]))
    assert (
        run(
            "--to-torch",
            f"--input={tmp_path / 'run'}",
            f"--like={tmp_path / 'like.pth'}",
            f"--keys={tmp_path / 'keys.json'}",
            f"--output={tmp_path / 'back.pth'}",
        )
        == 0
    )
    assert_same(
        torch_files.read(tmp_path / "back.pth"), wrapped(SOURCE | {"steps": np.array(0), "inc.num_batches_tracked": np.array(9)})
    )


def test_other_channels_and_classes_are_adapted_where_they_are_asked_for(tmp_path, file, capsys):
    assert (
        convert.main(
            [f"--model={NAME}", "--channels=1", "--classes=2", f"--input={file}", f"--output={tmp_path / 'w.safetensors'}"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "sum of the file's 3 input channels, divided over 1" in printed and "5 classes in the source, 2 here" in printed
    model = create_model(NAME, in_channels=1, num_classes=2)
    assert not from_torch.load(model, tmp_path / "w.safetensors").initialised
    with pytest.raises(JaxsegError, match="differences"):
        convert.main([f"--model={NAME}", f"--input={file}", f"--output={tmp_path / 'x.pth'}"])
    assert not (tmp_path / "x.pth").exists()


def test_a_table_of_keys_reads_names_that_no_key_mapping_knows(tmp_path):
    own = {k: v for k, v in SOURCE.items() if k != "steps"}
    first = next(iter(own)).split(".")[0]
    model = create_model(NAME, in_channels=3, num_classes=5)
    foreign = {k.replace(f"{first}.", "Begin/"): v for k, v in own.items()} | {"loss.table": np.ones(3)}
    with pytest.raises(JaxsegError, match="unexpected Begin/0"):
        from_torch.load(model, foreign)
    keys = [(r"^Begin/", f"{first}."), (r"^loss\.", None)]
    assert from_torch.load(model, foreign, keys=keys).ignored == ("loss.table",)
    assert_same(from_torch.export(model), own)
    assert_same(from_torch.export(model, names=foreign, keys=dict(keys)), {k: v for k, v in foreign.items() if k != "loss.table"})
    for bad in ([("(", "x")], [("a", r"\3")], [("a",)], ["abc"], [(1, "a")]):
        with pytest.raises(ConfigError, match="keys: "):
            from_torch.load(model, foreign, keys=bad)


class _Runs:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.fault("P7")
def test_a_pickle_that_runs_code_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": _Runs()}, protocol=2))
    with pytest.raises(DataError, match="refused") as error:
        run(f"--input={tmp_path / 'evil.pth'}", f"--output={tmp_path / 'x'}")
    assert error.value.exit_code == 65 and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--input=a.pth"], 64, "--output"),
        (["--input=/nowhere.pth", "--output=b", "--model=unett_test"], 64, "unet_test"),
        (["--input=/nowhere.pth", "--output=b", "--model=unet_test"], 65, "/nowhere.pth"),
        (["--input=/nowhere", "--output=b.pth", "--model=unet_test", "--to-torch"], 66, "/nowhere"),
        (["--input=a.pth", "--output=b", "--to-torch"], 64, "must end in"),
        (["--input=a.pth", "--output=b"], 64, "--model"),
        (["--input=a.pth", "--output=b", "--like=c.pth"], 64, "--to-torch"),
        (["--inptu=a"], 64, "command line"),
        (["--input=a", "--output=b", "--model=unet_test", "--option=width"], 64, "KEY=VALUE"),
    ],
)
def test_mistakes_name_the_remedy_and_have_the_codes_of_main(flags, code, words):
    with pytest.raises(JaxsegError, match=words) as error:
        convert.main(flags)
    assert error.value.exit_code == code


def test_the_command_ends_with_one_line_and_its_code():
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg.convert", "--input=/nowhere.pth", "--output=x", "--model=unet_test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 65 and len(done.stderr.strip().splitlines()) == 1 and "/nowhere.pth" in done.stderr
