"""Fetching real data: only the wanted files leave the archive, and every failure is one line with a remedy."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxseg.data import acquire
from jaxseg.data.records import Volume
from jaxseg.types import DataError

TOP = "totalsegmentator-2.18.0"
GOOD = f"{TOP}/tests/reference_files/example_ct.nii.gz"


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def test_only_the_wanted_files_are_unpacked(tmp_path):
    source = archive(
        tmp_path / "a.tar.gz",
        [
            (f"{TOP}/setup.py", b"raise SystemExit"),
            (GOOD, b"ct"),
            (f"{TOP}/totalsegmentator/map_to_binary.py", b"class_map = {}"),
            (f"{TOP}/tests/reference_files/example_ct_dicom/CT.1", b"slice"),
            (f"{TOP}/LICENSE", b"Apache"),
            (f"{TOP}/tests/reference_files/other.nii.gz", b"no"),
            (f"{TOP}/link", (tarfile.SYMTYPE, "/etc/passwd")),
        ],
    )
    (tmp_path / "out").mkdir()
    acquire.unpack(source, tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {
        "example_ct.nii.gz": b"ct",
        "map_to_binary.py": b"class_map = {}",
        "example_ct_dicom/CT.1": b"slice",
        "LICENSE": b"Apache",
    }


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/evil", b"x")],
        [(f"{TOP}/../evil", b"x")],
        [(f"{TOP}/tests/reference_files/example_ct_dicom/../../x", b"x")],
        [(GOOD, (tarfile.SYMTYPE, "/etc/passwd"))],
        [(GOOD, (tarfile.LNKTYPE, f"{TOP}/LICENSE"))],
        [(GOOD, (tarfile.FIFOTYPE, ""))],
        [(GOOD, b"x"), (GOOD, b"y")],
        [(GOOD, bytes(200))],
        [(f"{TOP}/{i}", bytes(90)) for i in range(5)],
    ],
)
def test_hostile_members_are_refused(tmp_path, monkeypatch, members):
    monkeypatch.setattr(acquire, "MAX_FILE", 100)
    monkeypatch.setattr(acquire, "MAX_ALL", 400)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError) as caught:
        acquire.unpack(archive(tmp_path / "a.tar.gz", members), tmp_path / "out")
    assert caught.value.code == "DATA_ARCHIVE"
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("a.tar.gz", "example_ct.nii.gz")] == []


def test_damaged_or_other_archives_are_refused(tmp_path, monkeypatch):
    whole = archive(tmp_path / "a.tar.gz", [(GOOD, np.random.default_rng(0).bytes(5000))]).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:3000])
    for name in ("cut.tar.gz", "a.tar.gz", "absent.tar.gz"):
        with pytest.raises(DataError) as caught:
            acquire.organs(tmp_path / "out", tmp_path / name)
        assert caught.value.code == "DATA_ARCHIVE" and not (tmp_path / "out").exists()
    monkeypatch.setattr(acquire, "SHA256", hashlib.sha256(whole[:3000]).hexdigest())
    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        acquire.organs(tmp_path / "out", tmp_path / "cut.tar.gz")
    assert caught.value.code == "DATA_ARCHIVE" and not (tmp_path / "out").exists()


def test_no_registry_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found for totalsegmentator\n")
    monkeypatch.setattr(acquire.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(DataError) as caught:
        acquire.main(["organs", f"--output={tmp_path / 'out'}"])
    said = str(caught.value)
    assert "No matching distribution" in said and "PIP_INDEX_URL" in said and "--archive" in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def volume(array, affine):
    return Volume(array, affine, None, Path("x.nii"))


@pytest.mark.parametrize("axes,signs", [((0, 1, 2), (1, -1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 0, 2), (1, 1, -1))])
def test_a_mask_with_its_axes_in_another_order_comes_onto_the_images_grid(axes, signs):
    image = volume(np.arange(60).reshape(3, 4, 5), np.array([[-2.0, 0, 0, 7], [0, -2, 0, 8], [0, 0, 3, -9], [0, 0, 0, 1]]))
    turned = image.array.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    step = np.zeros((4, 4))  # index in the turned array -> index in the image
    step[3, 3] = 1
    for i, (axis, sign) in enumerate(zip(axes, signs)):
        step[axis, i] = sign
        step[axis, 3] = image.array.shape[axis] - 1 if sign < 0 else 0
    mask = volume(turned, image.affine @ step)
    np.testing.assert_array_equal(acquire.on_grid(mask, image), image.array)


def test_voxels_that_do_not_coincide_are_not_shifted_into_place():
    image = volume(np.zeros((3, 4, 5)), np.diag([1.0, 1, 2, 1]))
    shifted, scaled, turned = (image.affine.copy() for _ in range(3))
    shifted[0, 3], scaled[2, 2] = 1.0, 2.1
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    short = image.array[:, :, 1:]
    for affine, array in ((shifted, image.array), (scaled, image.array), (turned, image.array), (image.affine, short)):
        with pytest.raises(DataError) as caught:
            acquire.on_grid(volume(array, affine), image)
        assert caught.value.code == "DATA_MISMATCH"
