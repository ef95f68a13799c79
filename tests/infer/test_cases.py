"""The way through the inputs of predict: names, the folder of the results, which error ends one case and which the run."""

import os
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data.formats import volumes
from jaxseg.infer import cases
from jaxseg.types import ConfigError, DataError, StorageError
from jaxseg.utils.files import write_atomic

RECIPE, RECORD = SimpleNamespace(modalities=()), {"dataset": "ct_ich"}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_names_lose_their_suffix_in_any_case_of_letters_and_nothing_else(tmp_path):
    touch(tmp_path, "A.NII.GZ", "b.1.nii", "c é (1).jpeg", "d.Png")
    assert [case.name for case in cases.find_cases(tmp_path, RECIPE, RECORD)] == ["A", "b.1", "c é (1)", "d"]


def test_masks_beside_the_images_are_no_inputs(tmp_path):
    for name in ("a", "a_mask", "b", "ward/c", "ward/c_mask"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    record = {"dataset": "folder", "config": {"data": {"suffixes": None}}}
    assert [case.name for case in cases.find_cases(tmp_path, RECIPE, record)] == ["a", "b", "ward_c"]


def test_a_folder_is_listed_once_to_recognise_its_layout_and_to_find_its_files(tmp_path, monkeypatch):
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(folder), scandir(folder))[1])
    record = {"dataset": "folder", "config": {"data": {"suffixes": None}}}
    for found in (["a", "b"], ["a", "b", "c"]):  # anew for each call: the folder may have changed
        touch(tmp_path, *(f"{name}.png" for name in found))
        assert [case.name for case in cases.find_cases(tmp_path, RECIPE, record)] == found
    assert listed == [tmp_path, tmp_path]


def test_two_inputs_of_one_name_are_refused_before_either_is_read(tmp_path):
    with pytest.raises(DataError, match="2 inputs would write results under the same name, 'dup'.*rename"):
        cases.find_cases(touch(tmp_path, "dup.nii", "dup.nii.gz", "other.png"), RECIPE, RECORD)


def test_names_that_some_disks_do_not_distinguish_are_refused(tmp_path):
    for folder, first, second in (("case", "Anna.nii.gz", "anna.nii.gz"), ("form", "\u00e9.png", "e\u0301.png")):
        (tmp_path / folder).mkdir()
        with pytest.raises(DataError, match="2 inputs would write results under the same name, '.*' and '.*rename"):
            cases.find_cases(touch(tmp_path / folder, first, second), RECIPE, RECORD)
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DataError, match="2 inputs would write results under the same name, 'scan'"):
        cases.find_cases(touch(tmp_path, "scan.nii.gz"), RECIPE, RECORD)


def test_no_file_of_others_is_replaced(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    found = cases.find_cases(touch(tmp_path / "images", "a.jpg", "b.jpg"), RECIPE, RECORD)
    touch(tmp_path / "masks", "a.png", "b.nii.gz", "c.png")
    with pytest.raises(ConfigError, match="holds a.png and 1 more, which predict did not write"):
        cases.check_apart(found, tmp_path / "masks", tmp_path / "images")
    touch(tmp_path / "masks", cases.DONE)  # then they are results of before
    cases.check_apart(found, tmp_path / "masks", tmp_path / "images")


def test_results_never_lie_beside_the_inputs(tmp_path):
    (tmp_path / "series").mkdir()
    found = [cases.Input("scan", (touch(tmp_path, "scan.nii.gz") / "scan.nii.gz",), list)]
    series = [cases.Input("series", (touch(tmp_path / "series", "1.dcm"),), list)]
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path, tmp_path / "link"):
        with pytest.raises(ConfigError, match="holds the input scan.nii.gz"):
            cases.check_apart(found, output, tmp_path / "scan.nii.gz")
    for output in (tmp_path / "series", tmp_path / "series" / "out", tmp_path / "link" / "series"):
        with pytest.raises(ConfigError, match="is, or lies in, the input folder series"):
            cases.check_apart(series, output, tmp_path / "series")
    cases.check_apart([*found, *series], tmp_path / "out", tmp_path)
    cases.check_apart(series, tmp_path, tmp_path / "series")
    with pytest.raises(ConfigError, match="is the folder of --input"):
        cases.check_apart(series, tmp_path, tmp_path)
    channels = [cases.Input("scan", (tmp_path / "scan" / "t1.nii", tmp_path / "scan" / "t2.nii"), list)]
    with pytest.raises(ConfigError, match="lies in the folder of --input"):  # the next run would take it for a case
        cases.check_apart(channels, tmp_path / "out", tmp_path)


def test_results_of_different_kinds_never_have_one_name(tmp_path):
    image = np.zeros((6, 5), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    picture, out = volumes.read_volume(tmp_path / "a.png"), tmp_path / "out"
    cases.open_output(out)
    written = []
    for name in ("a", "a_overlay", "a_prob", "overlays", "probabilities"):
        written.append(cases.write_labels(out, name, image, picture))
        written.append(cases.write_overlay(out, name, np.zeros((4, 4, 3), np.uint8)))
        written += cases.write_maps(out, name, np.zeros((6, 5, 2)), ["one", "two"], picture)
    assert len(set(written)) == len(written) == 20 and all((out / name).is_file() for name in written)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    touch(tmp_path, "file")
    for place, error in (("file", ConfigError), ("file/below", StorageError)):
        with pytest.raises(error, match="--output=.*folder"):
            cases.open_output(tmp_path / place)
    cases.open_output(tmp_path / "a/b")
    assert not list((tmp_path / "a/b").iterdir())


def test_an_overlay_that_cannot_be_written_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="--output=.*gone"):
        cases.write_overlay(touch(tmp_path, "gone") / "gone", "x", np.zeros((2, 2, 3), np.uint8))


@pytest.mark.fault("P4")
def test_a_file_in_a_folder_that_is_gone_is_a_storage_error_and_not_that_of_the_cleaning_up(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "file" / "x", b"1")  # nothing can be removed there either


def test_maps_whose_names_would_be_one_file_are_numbered(tmp_path):
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(tmp_path / "a.png")
    picture, maps = volumes.read_volume(tmp_path / "a.png"), np.stack([np.full((6, 5), k / 4) for k in range(4)], -1)
    written = cases.write_maps(tmp_path, "a", maps, ["left/lung", "left_lung", "Left_Lung", "heart"], picture)
    assert [Path(name).name for name in written] == ["1_left_lung.png", "2_left_lung.png", "3_Left_Lung.png", "heart.png"]
    assert [np.asarray(Image.open(tmp_path / name)).max() for name in written] == [0, 64, 128, 191]


@pytest.mark.parametrize("suffix", [".png", ".nii"])
def test_maps_of_regions_are_named_after_regions_and_hold_their_own_channel(tmp_path, suffix):
    record = {
        "config": {"data": {"whole": False}},
        "labels": ["core", "oedema"],
        "regions": [["all/any", [1, 2]], ["middle", [1]]],
    }
    assert cases.map_names(record) == ["all/any", "middle"]
    assert cases.map_names(record | {"regions": []}) == ["core", "oedema"]
    array = np.zeros((6, 5), np.uint8) if suffix == ".png" else np.zeros((6, 5, 2), np.uint8)
    path = tmp_path / f"scan{suffix}"
    write = Image.fromarray(array).save if suffix == ".png" else nibabel.Nifti1Image(array, np.eye(4)).to_filename
    write(path)
    maps = np.stack([np.full(array.shape, 0.2), np.full(array.shape, 0.8)], -1)
    written = cases.write_maps(tmp_path, "scan", maps, cases.map_names(record), volumes.read_volume(path))
    if suffix == ".png":
        found = {name: np.asarray(Image.open(tmp_path / name)).max() for name in written}
        assert found == {"probabilities/scan/all_any.png": 51, "probabilities/scan/middle.png": 204}
    else:
        assert written == ["probabilities/scan.nii.gz"]
        np.testing.assert_allclose(nibabel.load(tmp_path / written[0]).get_fdata(), maps, rtol=1e-6)  # float32
