"""Which files are inputs; nothing that is not a regular file of the given folder is opened."""

import os
import socket

import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.formats.volumes import find_inputs, read_volume
from jaxseg.types import DataError

DICOM = b"\0" * 128 + b"DICM"


def _touch(folder, *names, content=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _refused(path, code) -> str:
    with pytest.raises(DataError) as caught:
        find_inputs(path)
    assert caught.value.code == code and "\n" not in str(caught.value), caught.value
    return str(caught.value)


def test_a_file_is_itself(tmp_path):
    _touch(tmp_path, "a.nii.gz", "b.PNG")
    assert find_inputs(str(tmp_path / "a.nii.gz")) == [tmp_path / "a.nii.gz"]
    assert find_inputs(tmp_path / "b.PNG") == [tmp_path / "b.PNG"]
    _touch(tmp_path, "slice", content=DICOM)
    assert find_inputs(tmp_path / "slice") == [tmp_path / "slice"]
    _touch(tmp_path, "c.txt")
    assert ".nii.gz" in _refused(tmp_path / "c.txt", "DATA_MISSING")


def test_a_folder_gives_its_images_sorted_without_hidden_ones(tmp_path, monkeypatch):
    _touch(tmp_path, "b.nii.gz", "a.nii", "c.jpg", "d.tiff", "._a.nii", ".e.png", "notes.txt", "sub/f.nii", "g.NII.GZ")
    names = ["a.nii", "b.nii.gz", "c.jpg", "d.tiff", "g.NII.GZ"]
    assert [p.name for p in find_inputs(tmp_path)] == names
    monkeypatch.chdir(tmp_path.parent)
    assert find_inputs(tmp_path.name)[0] == (tmp_path / "a.nii").relative_to(tmp_path.parent)  # as given: relative


def test_a_dicom_folder_is_one_input(tmp_path):
    _touch(tmp_path / "ct", "IM1", "IM2", content=DICOM)
    _touch(tmp_path / "ct", "preview.jpg", "notes.txt")
    assert find_inputs(tmp_path / "ct") == [tmp_path / "ct"]


def test_a_folder_of_dicom_folders_gives_them_beside_its_images(tmp_path):
    for name in ("p2", "p1"):
        _touch(tmp_path / name, "IM1", content=DICOM)
    _touch(tmp_path, "p0.nii", "empty/readme.txt")
    assert [p.name for p in find_inputs(tmp_path)] == ["p0.nii", "p1", "p2"]


def test_dicom_beside_nifti_is_ambiguous(tmp_path):
    _touch(tmp_path, "IM1", content=DICOM)
    _touch(tmp_path, "a.nii.gz")
    assert "separate" in _refused(tmp_path, "DATA_PATH")


def test_nothing_found_says_what_was_looked_for(tmp_path):
    text = _refused(tmp_path, "DATA_MISSING")
    assert ".nii.gz" in text and ".png" in text and "DICOM" in text
    assert "cannot be found" in _refused(tmp_path / "absent", "DATA_MISSING")


@pytest.mark.fault("D23")
def test_special_files_are_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")  # opening it would wait for ever
    _refused(tmp_path, "DATA_PATH")
    _refused(tmp_path / "a.nii.gz", "DATA_PATH")
    with pytest.raises(DataError) as caught:
        read_volume(tmp_path / "a.nii.gz")
    assert caught.value.code == "DATA_PATH"
    _refused("/dev/zero", "DATA_PATH")
    _touch(tmp_path / "s", "a.nii")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s" / "x"))
        _refused(tmp_path / "s", "DATA_PATH")


def test_links_stay_inside_the_folder(tmp_path):
    _touch(tmp_path / "in", "a.nii")
    _touch(tmp_path, "secret.nii")
    (tmp_path / "in" / "b.nii").symlink_to("a.nii")
    assert [p.name for p in find_inputs(tmp_path / "in")] == ["a.nii", "b.nii"]
    (tmp_path / "in" / "c.nii").symlink_to("../secret.nii")
    assert "c.nii" in _refused(tmp_path / "in", "DATA_PATH")


def test_links_that_stay_in_the_data_set_are_followed(tmp_path):
    _touch(tmp_path / "set" / "store", "x.nii")
    _touch(tmp_path, "secret.nii")
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir()
        (tmp_path / "set" / part / "a.nii").symlink_to("../store/x.nii")
    (case,) = datasets.load("folder", tmp_path / "set").cases
    assert case.images == (tmp_path / "set" / "images" / "a.nii",)
    (tmp_path / "set" / "images" / "a.nii").unlink()
    (tmp_path / "set" / "images" / "a.nii").symlink_to("../../secret.nii")
    with pytest.raises(DataError, match="leads out of the folder"):
        datasets.load("folder", tmp_path / "set")


def test_git_annex_is_followed_from_any_folder_of_its_repository(tmp_path):
    _touch(tmp_path / ".git" / "annex" / "objects" / "4x", "MD5E-s1--0.nii", content=b"x")
    _touch(tmp_path / "sub" / "images", "a.nii")
    link = tmp_path / "sub" / "images" / "b.nii"
    link.symlink_to("../../.git/annex/objects/4x/MD5E-s1--0.nii")
    assert [p.name for p in find_inputs(tmp_path / "sub" / "images")] == ["a.nii", "b.nii"]
    (tmp_path / ".git" / "annex" / "objects" / "4x" / "MD5E-s1--0.nii").unlink()
    assert "git annex get" in _refused(tmp_path / "sub" / "images", "DATA_PATH")
    link.unlink()
    link.symlink_to("../../.git/config")
    _touch(tmp_path / ".git", "config")
    assert "leads out" in _refused(tmp_path / "sub" / "images", "DATA_PATH")


@pytest.mark.parametrize("target", ["absent.nii", "c.nii", "/etc", "/dev/zero", ".."])
@pytest.mark.fault("D23")
def test_links_that_lead_elsewhere_are_refused(tmp_path, target):
    _touch(tmp_path / "in", "a.nii")
    (tmp_path / "in" / "c.nii").symlink_to(target)
    _refused(tmp_path / "in", "DATA_PATH")


@pytest.mark.fault("D23")
def test_a_linked_slice_outside_the_series_is_refused(tmp_path):
    pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
    _touch(tmp_path, "out", content=DICOM)
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "IM1").symlink_to("../out")
    with pytest.raises(DataError) as caught:
        read_volume(tmp_path / "ct")
    assert caught.value.code == "DATA_PATH"


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros(3))
    with pytest.raises(DataError) as caught:
        read_volume(tmp_path / "a.npz")
    assert caught.value.code == "DATA_HEADER"
