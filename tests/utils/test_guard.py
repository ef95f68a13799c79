"""Files of others: whatever lies there in place of a regular, bounded file is one DataError."""

import json
import os

import numpy as np
import pytest

from jaxseg.data.formats import volumes
from jaxseg.types import CheckpointError, DataError
from jaxseg.utils import guard, npy
from tests.hostile import SPECIAL, mutations, one_line, special, within


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [guard.read_json, guard.read_text, npy.open_npy, guard.open_regular], ids=lambda f: f.__name__)
def test_what_is_no_regular_file_is_refused_without_being_opened(tmp_path, kind, read):
    path = special(kind, tmp_path / "x")
    with within(5), pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.code == ("DATA_MISSING" if kind in ("nothing", "broken link") else "DATA_PATH")
    assert str(path) in one_line(caught.value)


@pytest.mark.parametrize(
    "content, remedy",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "of Git LFS.*git lfs pull"),
        (b"/annex/objects/SHA256E-s5--2cf2.nii.gz\n", "of git-annex.*git annex get"),
    ],
)
@pytest.mark.parametrize("read", [guard.read_bytes, volumes.read_volume], ids=lambda f: f.__name__)
def test_pointers_of_files_that_were_not_fetched_are_told(tmp_path, content, remedy, read):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=remedy) as caught:
        read(path) if read is not guard.read_bytes else read(path, 1 << 20)
    assert caught.value.code == "DATA_MISSING"


def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_text("{}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="permission"):
        guard.read_json(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"[" * 100_000 + b"]" * 100_000, "more than 60 levels"),
        (b"[" * 61 + b"]" * 61, "more than 60 levels"),
        (b'{"a":' * 61 + b"1" + b"}" * 61, "more than 60 levels"),
        (b"[" + b"0," * 1_100_000 + b"0]", "more than 1,000,000 entries"),
        (b"[" + b"1" * 5000 + b"]", "not readable JSON"),
        (b" " * 300, "not readable JSON"),
    ],
)
@pytest.mark.fault("P8")
def test_a_json_text_is_bounded_in_depth_and_entries_and_has_each_key_once(tmp_path, content, words):
    (tmp_path / "x.json").write_bytes(content)
    with within(5), pytest.raises(DataError, match=words) as caught:
        guard.read_json(tmp_path / "x.json")
    one_line(caught.value)


def test_a_json_file_beyond_its_limit_is_refused_unread(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(1 << 40)  # a hole: takes no space
    with within(5), pytest.raises(DataError, match="longer than") as caught:
        guard.read_json(tmp_path / "x.json")
    assert caught.value.code == "DATA_TOO_LARGE"


@pytest.mark.parametrize("value", [None, 1.5, "x", [], {}, [1, [2, {"a": [None]}]], {"a": {"b": [1, 2]}}])
def test_a_json_text_within_the_bounds_gives_its_value(tmp_path, value):
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert guard.read_json(tmp_path / "x.json") == value
    nested = [1]
    for _ in range(guard.MAX_DEPTH - 1):
        nested = [nested]
    assert guard.parse_json(json.dumps(nested).encode()) == nested


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.ones((2, 3), np.int16)),
        np.zeros((0, 4), np.uint8),
        np.array(3.5),
        np.arange(3, dtype=">i4"),
    ],
)
def test_an_npy_map_is_what_numpy_reads(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = npy.open_npy(tmp_path / "x.npy")
    assert found.dtype == array.dtype and found.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(found, array)


def stated(**header) -> bytes:
    """A .npy file with this header and 64 bytes of numbers."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (4, 4)} | header)
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


def test_the_stated_header_is_read_where_it_is_true(tmp_path):
    (tmp_path / "x.npy").write_bytes(stated())
    assert npy.open_npy(tmp_path / "x.npy").shape == (4, 4)


@pytest.mark.parametrize(
    "header",
    [
        {"shape": (-4, -4)},
        {"shape": (-1, 16)},
        {"shape": (-1,)},
        {"shape": (1 << 63, 0)},
        {"shape": (1 << 40, 1 << 40)},
        {"shape": (1 << 40,)},
        {"shape": (17,)},
        {"shape": (True, 4)},
        {"shape": (4.0, 4)},
        {"shape": [4, 4]},
        {"shape": (1,) * 40},
        {"shape": "ab"},
        {"descr": "|O"},
        {"descr": "|V0"},
        {"descr": "<U4"},
        {"descr": "<M8[s]"},
        {"descr": "|V2000000000"},
        {"descr": [("a", "<f4")]},
        {"descr": ("<f4", (4,))},
        {"descr": "nothing"},
        {"descr": None},
        {"fortran_order": 3},
        {"more": 1},
    ],
    ids=repr,
)
@pytest.mark.fault("P8")
def test_an_npy_header_that_lies_is_refused(tmp_path, header):
    (tmp_path / "x.npy").write_bytes(stated(**header))
    with within(5), pytest.raises(DataError) as caught:
        npy.open_npy(tmp_path / "x.npy")
    one_line(caught.value)


@pytest.mark.fault("P8")
def test_a_mutated_npy_file_is_read_or_one_data_error(tmp_path):
    for bad in mutations(stated(), 300):
        (tmp_path / "x.npy").write_bytes(bad)
        try:
            with within(5):
                npy.open_npy(tmp_path / "x.npy")
        except DataError as error:
            one_line(error)


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("a\nb"), "DATA_FORMAT"),
        (RecursionError(), "DATA_FORMAT"),
        (MemoryError(), "DATA_TOO_LARGE"),
        (OSError(22, "Invalid argument"), "DATA_FORMAT"),
        (OSError(5, "Input/output error"), "DATA_PATH"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "DATA_FORMAT"),
        (DataError("x\ny", "DATA_UNSAFE"), "DATA_UNSAFE"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_whatever_a_parser_raises_becomes_one_line_with_the_path(error, code):
    with pytest.raises(DataError) as caught, guard.reading("a\nb.pth", "weight file"):
        raise error
    assert caught.value.code == code and one_line(caught.value).startswith("a\\x0ab.pth: ")


def test_errors_of_another_exit_code_and_interrupts_pass_a_reader_unchanged():
    for error in (CheckpointError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, guard.reading("x", "file"):
            raise error
        assert caught.value is error


def test_what_is_shown_of_a_value_does_not_grow_with_it():
    tree = ()
    for _ in range(60):
        tree = (tree, tree)  # 2^60 leaves
    for value in (tree, [tree], "x" * 10_000_000, b"x" * 10_000_000, 1 << 1_000_000, {1: tree}, object()):
        with within(2):
            assert len(guard.shown(value)) < 100
    assert guard.shown((2, 3.5, None)) == "[2, 3.5, None]"
