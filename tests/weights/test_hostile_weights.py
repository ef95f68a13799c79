"""Weight files made to harm: nothing hangs, grows, runs or ends in another exception than DataError."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxseg.types import DataError
from jaxseg.weights import torch_files, torch_write
from tests.hostile import SPECIAL, mutations, one_line, special, within

BOMB = b"N\x85q\x01" + b"h\x01h\x01\x86q\x01" * 60  # a tuple of 2^60 leaves, at h\x01
ARRAYS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5), "c": np.ones(3, np.float16)}


def zipped(content: bytes) -> bytes:
    """A .pth with this data.pkl and one storage of 24 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(24))
    return file.getvalue()


def legacy(content: bytes, keys: bytes | None = None) -> bytes:
    """A file in the layout before PyTorch 1.6 with this pickle, and these keys of storages."""
    start = [pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(start) + content + (pickle.dumps([], protocol=2) if keys is None else keys)


def refused(path: Path, content: bytes, *, weighed: bool = True) -> str:
    """The one line that reading this content ends in, quickly and with little memory.

    Args:
      weighed: look at the memory too, which makes reading two to three times as long.
    """
    path.write_bytes(content)
    if weighed:
        tracemalloc.start()
    try:
        with within(10), pytest.raises(DataError) as caught:
            torch_files.read(path)
        assert not weighed or tracemalloc.get_traced_memory()[1] < 100 << 20  # bytes
    finally:
        tracemalloc.stop()
    return one_line(caught.value)


def text(word: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word


def call(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return b"c" + f"{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


STORAGE = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x06tQ"
TENSOR = "torch._utils._rebuild_tensor_v2"
MATRIX = (
    b"\x80\x02}" + text(b"w") + call(TENSOR, STORAGE, b"K\x00", b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"\x89", b"}") + b"s."
)  # {"w": a tensor [2, 3]}
PROGRAMS = {
    "shape": call(TENSOR, STORAGE, b"K\x00", b"h\x01", b"K\x01\x85", b"\x89", b"}"),
    "a size in the shape": call(TENSOR, STORAGE, b"K\x00", b"h\x01\x85", b"K\x01\x85", b"\x89", b"}"),
    "strides": call(TENSOR, STORAGE, b"K\x00", b"K\x01\x85", b"h\x01", b"\x89", b"}"),
    "offset": call(TENSOR, STORAGE, b"h\x01", b"K\x01\x85", b"K\x01\x85", b"\x89", b"}"),
    "storage": call(TENSOR, b"h\x01", b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", b"}"),
    "dtype": call("torch._utils._rebuild_tensor_v3", STORAGE, b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", b"}", b"h\x01"),
    "persistent id": b"h\x01Q",
    "kind of storage": b"(" + text(b"storage") + b"h\x01" + text(b"0") + text(b"cpu") + b"K\x06tQ",
    "key of a storage": b"(" + text(b"storage") + b"ctorch\nFloatStorage\nh\x01" + text(b"cpu") + b"K\x06tQ",
    "count of a storage": b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"h\x01tQ",
    "view of a storage": b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x06h\x01tQ",
    "key of a dictionary": b"}h\x01Ns",
    "device": call("torch.device", b"h\x01"),
    "encoded text": call("_codecs.encode", b"h\x01", text(b"latin1")),
    "pairs": call("collections.OrderedDict", b"h\x01"),
    "function": b"h\x01)R",
    "arguments": b"ccollections\nOrderedDict\nh\x01R",
    "module of a global": b"h\x01" + text(b"x") + b"\x93",
    "name of a global": text(b"torch") + b"h\x01\x93",
    "state of an object": b"]h\x01b",
    "list to append to": b"h\x01Na",
    "weights": b"}" + text(b"w") + b"h\x01s",
}


@pytest.mark.parametrize("layout", [zipped, legacy])
@pytest.mark.parametrize("place", PROGRAMS)
@pytest.mark.fault("P7")
def test_a_tree_of_2_to_the_60_leaves_is_refused_wherever_it_stands(tmp_path, place, layout):
    refused(tmp_path / "x.pth", layout(b"\x80\x02" + BOMB + b"0" + PROGRAMS[place] + b"."))


def test_such_a_tree_among_the_keys_of_a_file_before_1_6_is_refused(tmp_path):
    keys = b"\x80\x02" + BOMB + b"0](h\x01e."
    refused(tmp_path / "x.pth", legacy(pickle.dumps({}, protocol=2), keys))
    refused(tmp_path / "x.pth", legacy(pickle.dumps({}, protocol=2), b"\x80\x02" + BOMB + b"."))


@pytest.mark.parametrize(
    "program",
    [
        b"(tt",
        b"l",
        b"(u",
        b"h\x05",
        b"0",
        b"R",  # of what is not there
        b"]("
        + (b"(K\x01K\x01t" * 40_000)
        + b"eq\x01"
        + b"0"
        + call("collections.OrderedDict", b"h\x01") * 1000,  # 40 million pairs
        text(b"x" * 100_000) + b"q\x01" + call("_codecs.encode", b"h\x01", text(b"latin1")) * 1000,  # 100 MB of bytes
        b"}q\x01("
        + b"".join(text(b"%05d" % i) + b"N" for i in range(20_000))
        + b"uc__torch__.m\nM\n)\x81q\x02"
        + b"h\x01b" * 2000,  # 40 million attributes
        b"N" * 1_100_000,  # steps
        b"}" + text(b"k" * 100_000) + b"Ns",  # a name
        b"}\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b"Ns",  # a number as name, of 10,000 digits
        b"\x8e" + b"\xff" * 7 + b"\x7f" + b"x",
        b"\x8d" + b"\xff" * 7 + b"\x7f" + b"x",
        b"B\xff\xff\xff\x7fx",  # lengths that lie
        b"S" + b"'" + b"x" * 100_000,
        b"I" + b"1" * 100_000 + b"\n",
        b"c" + b"x" * 100_000 + b"\n" + b"y" * 100_000 + b"\n",
        b"\x85" * 3 + b"N" + b"\x85" * 100_000,  # a tuple in a tuple in ...
    ],
)
@pytest.mark.parametrize("layout", [zipped, legacy])
def test_a_pickle_is_bounded_in_steps_names_and_what_its_calls_copy(tmp_path, program, layout):
    refused(tmp_path / "x.pth", layout(b"\x80\x02" + program + b"."), weighed=len(program) < 10_000)


def test_names_that_grow_with_nesting_are_bounded(tmp_path):
    level = text(b"k" * 900)
    program = (
        b"}"
        + level
        + b"Nsq\x01"
        + b"".join(b"}(" + text(b"a" * 900) + b"h\x01" + text(b"b" * 900) + b"h\x01uq\x01" for _ in range(16))
    )
    assert "nested entries or" in refused(tmp_path / "x.pth", zipped(b"\x80\x02" + program + b"."))


def test_an_archive_of_very_many_members_is_refused_unread(tmp_path):
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    many = entry * 400_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(many), 0, 0)
    assert "bytes at once" in refused(tmp_path / "x.pth", many + end)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [1 << 70], "data_offsets": [0, 4]},
        {"shape": [1] * 1000, "data_offsets": [0, 4]},
        {"shape": 1, "data_offsets": [0, 4]},
        {"shape": [1.0], "data_offsets": [0, 4]},
        {"shape": [True], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0]},
        {"shape": [1], "data_offsets": [0, 4, 8]},
        {"shape": [1], "data_offsets": ["0", "4"]},
        {"shape": [1], "data_offsets": "04"},
        {"shape": [1], "data_offsets": [0, -4]},
        {"shape": [1], "data_offsets": None},
        {"shape": {}, "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        [],
        "x",
        None,
        1,
    ],
    ids=repr,
)
def test_an_entry_of_a_safetensors_header_is_checked_by_type_and_range(tmp_path, entry):
    header = json.dumps({"a": {"dtype": "F32", **entry} if isinstance(entry, dict) else entry}).encode()
    refused(tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header + bytes(4))


@pytest.mark.parametrize(
    "header",
    [b"{" + b'"a":[' * 50_000, b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", b"{" + b'"a":1,' * 400_000 + b'"b":1}', b"[]"],
    ids=len,
)
def test_a_safetensors_header_is_bounded_in_depth_and_entries(tmp_path, header):
    refused(tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header + bytes(4))


def test_an_npz_of_other_packings_or_broken_headers_is_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive, archive.open("a.npy", "w") as member:
            np.save(member, np.ones(3))
        assert "compressed by method" in refused(tmp_path / "x.npz", file.getvalue())
    for head in (b"\x93NUMPY\x01\x00\x03\x00(((", b"\x93NUMPY\x09\x00", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", b""):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", head)
        refused(tmp_path / "x.npz", file.getvalue())


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_weight_file_that_is_no_regular_file_is_refused_without_being_opened(tmp_path, kind):
    path = special(kind, tmp_path / "w.pth")
    with within(5), pytest.raises(DataError, match="w.pth"):
        torch_files.load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.fault("P7")
def test_a_mutated_weight_file_is_read_or_one_data_error(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, **ARRAYS)
    else:
        torch_write.write(path, ARRAYS)
    for bad in mutations(path.read_bytes(), 200):
        path.write_bytes(bad)
        try:
            with within(5):
                torch_files.read(path)
        except DataError as error:
            one_line(error)


@pytest.mark.parametrize("layout", [zipped, legacy])
@pytest.mark.fault("P7")
def test_a_mutated_pickle_is_read_or_one_data_error(tmp_path, layout):
    for bad in mutations(MATRIX, 400):
        (tmp_path / "w.pth").write_bytes(layout(bad))
        try:
            with within(5):
                torch_files.read(tmp_path / "w.pth")
        except DataError as error:
            one_line(error)


def test_a_file_from_a_big_endian_machine_holds_the_same_numbers(tmp_path):
    values = np.arange(6, dtype=np.float32)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/byteorder", b"big")
        archive.writestr("archive/data/0", values.astype(">f4").tobytes())
        archive.writestr("archive/data.pkl", MATRIX)
    (tmp_path / "w.pth").write_bytes(file.getvalue())
    np.testing.assert_array_equal(torch_files.read(tmp_path / "w.pth")["w"], values.reshape(2, 3))
