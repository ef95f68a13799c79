"""BraTS folders of eight releases: recognised by names, read to the same classes; each trap has its test."""

import gzip
import json
import shutil

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.datasets import brats
from jaxseg.data.formats import volumes
from jaxseg.data.phantom import brain_tumour
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError

SMALL = (3, (16, 16, 12))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """layout -> folder with three small cases; the same heads and tumours in each (a cavity more in 2024)."""
    folder, patch = tmp_path_factory.mktemp("brats"), pytest.MonkeyPatch()
    patch.setitem(brain_tumour.KINDS, "quick", SMALL)
    for layout in brain_tumour.LAYOUTS:
        brain_tumour.write_phantom(folder / layout, kind="quick", layout=layout)
    patch.undo()
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return lambda layout: shutil.copytree(made / layout, tmp_path / layout)


def refused(code, root, *words, **options):
    with pytest.raises(DataError) as caught:
        datasets.load("brats", root, **options)
    assert caught.value.code == code and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def read(data, case):
    """(images [X, Y, Z, C], classes [X, Y, Z])."""
    images = [(data.read_image or volumes.read_volume)(path).array for path in case.images]
    images = images[0] if images[0].ndim == 4 else np.stack(images, -1)
    return images, data.map_mask(volumes.read_volume(case.mask).array)


def rename(root, old, new):
    """Replace `old` by `new` in every name under a folder, deepest first."""
    for path in sorted(root.rglob(f"*{old}*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.replace(old, new)))


@pytest.mark.parametrize("layout", sorted(brain_tumour.LAYOUTS))
def test_every_layout_reads_to_the_same_images_and_classes(made, layout):
    data, first = (datasets.load("brats", made / name) for name in (layout, "2018"))
    assert data.name == "brats" and data.synthetic and data.modalities == ("t1", "t1ce", "t2", "flair")
    assert data.labels == ("NCR", "ED", "ET") + (("RC",) if layout == "2024" else ())
    assert data.regions == (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,)))
    assert [c.id for c in data.cases] == sorted(c.id for c in data.cases) and len(data.cases) == 3
    for case, other in zip(data.cases, first.cases):
        assert case.meta["release"] == layout
        images, classes = read(data, case)
        images_2018, classes_2018 = read(first, other)
        assert classes.dtype == np.uint8 and classes.max() <= len(data.labels)
        if layout == "2024":
            assert (classes == 4).any() and ((classes > 0) == (classes_2018 > 0)).all()
        else:
            np.testing.assert_array_equal(images, images_2018)
            np.testing.assert_array_equal(classes, classes_2018)


def test_a_volume_keeps_its_own_orientation_and_affine(made):
    for layout in brain_tumour.LAYOUTS:
        data = datasets.load("brats", made / layout)
        volume = (data.read_image or volumes.read_volume)(data.cases[0].images[0])
        assert volume.array.shape[:3] == SMALL[1]
        np.testing.assert_array_equal(volume.affine, [[-1, 0, 0, 0], [0, -1, 0, 15], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("layout", ["2018", "2023", "msd"])
@pytest.mark.parametrize(
    "wanted,channels",
    [(("t1ce", "flair"), [1, 3]), (("FLAIR", "T1Gd", "t1n"), [3, 1, 0]), (("t2w",), [2]), (["t2f", "t1c"], [3, 1])],
)
def test_modalities_come_by_any_of_their_names_in_the_order_asked_for(made, layout, wanted, channels):
    data = datasets.load("brats", made / layout)
    whole = read(data, data.cases[1])[0]
    data = datasets.load("brats", made / layout, modalities=wanted)
    assert data.modalities == tuple(("t1", "t1ce", "t2", "flair")[c] for c in channels)
    np.testing.assert_array_equal(read(data, data.cases[1])[0], whole[..., channels])


def test_the_general_reader_of_cases_takes_both_kinds_of_files(made):
    for layout in ("2018", "msd"):
        data = datasets.load("brats", made / layout, modalities=("t1ce", "flair"))
        pieces = list(read_case(data, data.cases[0]))
        assert len(pieces) == 12 and pieces[0].image.shape == (16, 16, 2)


def test_unknown_and_doubled_modalities_are_refused(made):
    with pytest.raises(ConfigError, match="modality 't1cee'.*did you mean t1ce"):
        datasets.load("brats", made / "2018", modalities=("t1cee",))
    with pytest.raises(ConfigError, match="unknown modality 'seg'"):
        datasets.load("brats", made / "2018", modalities=("seg",))
    with pytest.raises(ConfigError, match="each name must occur only once"):
        datasets.load("brats", made / "2018", modalities=("t1c", "t1ce"))
    for wrong in ("t1", ()):
        with pytest.raises(ConfigError, match="a non-empty tuple of names"):
            datasets.load("brats", made / "2018", modalities=wrong)


@pytest.mark.fault("D19")
def test_a_missing_modality_names_case_modality_and_what_is_there(copy):
    root = copy("2018")
    (root / "HGG/Brats18_SYN_2_1/Brats18_SYN_2_1_t1.nii.gz").unlink()
    refused("DATA_MISSING", root, "case Brats18_SYN_2_1 has no t1,", "SYN_2_1_t1ce.nii.gz", "SYN_2_1_flair.nii.gz")
    assert len(datasets.load("brats", root, modalities=("t1ce", "flair")).cases) == 3  # t1ce is no t1


def test_grades_come_from_the_folders_and_in_2020_from_the_table(copy):
    for layout in ("2018", "2020"):
        root = copy(layout)
        data = datasets.load("brats", root)
        assert [data.stratum(c) for c in data.cases] == ["LGG", "HGG", "HGG"] == [c.meta["grade"] for c in data.cases]
    (root / "name_mapping.csv").write_text("Grade,BraTS_2019_subject_ID\nHGG,x\n")
    refused("DATA_TABLE", root, "BraTS_2020_subject_ID")
    (root / "name_mapping.csv").unlink()
    assert {data.stratum(c) for data in [datasets.load("brats", root)] for c in data.cases} == {""}
    (root := copy("2021"))
    assert {c.meta["grade"] for c in datasets.load("brats", root).cases} == {""}


def test_a_folder_of_one_grade_knows_its_grade(copy):
    data = datasets.load("brats", copy("2018") / "HGG")
    assert [data.stratum(c) for c in data.cases] == ["HGG", "HGG"]


@pytest.mark.parametrize("name,release", [("Brats17_TCIA_", "2017"), ("BraTS19_CBICA_", "2019")])
def test_the_years_before_and_after_2018_differ_by_their_prefix(copy, name, release):
    root = copy("2018")
    rename(root, "Brats18_SYN_", name)
    data = datasets.load("brats", root.parent)
    assert data.synthetic and {c.meta["release"] for c in data.cases} == {release} and data.cases[0].patient == f"{name}1"


def test_case_355_of_2020_has_its_mask_under_another_name(copy):
    root = copy("2020")
    rename(root, "BraTS20_Training_002", "BraTS20_Training_355")
    folder = root / "BraTS20_Training_355"
    expected = read(datasets.load("brats", root), datasets.load("brats", root).cases[2])[1]
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    data = datasets.load("brats", root)
    assert data.cases[2].mask.name == "W39_1998.09.19_Segm.nii"
    np.testing.assert_array_equal(read(data, data.cases[2])[1], expected)


@pytest.mark.parametrize("layout", ["2020", "msd"])
def test_files_that_macos_leaves_are_no_cases(copy, layout):
    root = copy(layout)
    for path in list(root.rglob("*.nii*")):
        path.with_name("._" + path.name).write_bytes(b"left by macOS")
    (root / "._BraTS20_Training_009").mkdir()
    assert len(datasets.load("brats", root).cases) == 3


def test_packed_and_plain_files_read_the_same_but_not_both(copy):
    root = copy("2020")
    plain = root / "BraTS20_Training_001/BraTS20_Training_001_t1.nii"
    packed = plain.with_name(plain.name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    refused("DATA_PATH", root, "t1 of case BraTS20_Training_001 a second time")
    plain.unlink()
    assert datasets.load("brats", root).cases[0].images[0] == packed


def test_cases_without_a_mask_are_kept_for_prediction(copy):
    root = copy("2021")
    rename(root, "BraTS2021_00003_seg.nii.gz", "mask.bin")
    assert [c.mask is None for c in datasets.load("brats", root).cases] == [False, False, True]
    root = copy("msd")
    (root / "labelsTr/BRATS_002.nii.gz").unlink()
    assert [c.mask is None for c in datasets.load("brats", root).cases] == [False, True, False]
    (root / "imagesTr/BRATS_001.nii.gz").unlink()
    refused("DATA_MISSING", root, "labelsTr/BRATS_001.nii.gz", "no image of the same name")


def test_examinations_of_one_patient_stay_together(copy):
    root = copy("2023")
    rename(root, "BraTS-GLI-00002-000", "BraTS-GLI-00001-001")
    assert [(c.id, c.patient) for c in datasets.load("brats", root).cases] == [
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001"),
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001"),
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003"),
    ]


def test_2024_is_recognised_by_the_examinations_number_or_by_the_option(copy):
    root = copy("2024")
    assert brats.label_count("2024") == 4 and brats.label_count() == 3
    rename(root, "-100", "-000")  # as if somebody had renamed them
    data = datasets.load("brats", root)
    assert data.labels == ("NCR", "ED", "ET") and data.cases[0].meta["release"] == "2023"
    with pytest.raises(DataError, match="label 4 in .* give release='2024'") as caught:
        read(data, data.cases[0])
    assert caught.value.code == "DATA_LABEL"
    data = datasets.load("brats", root, release="2024")
    assert data.labels[-1] == "RC" and (read(data, data.cases[0])[1] == 4).any()


def test_the_option_cannot_contradict_the_names(made):
    with pytest.raises(ConfigError, match="release='2024' for cases named as those of 2018"):
        datasets.load("brats", made / "2018", release="2024")
    with pytest.raises(ConfigError, match="unknown release '2022'"):
        datasets.load("brats", made / "2018", release="2022")
    assert datasets.load("brats", made / "2018", release="2018").cases


def test_other_tumours_of_2023_have_their_own_names(copy):
    root = copy("2023")
    rename(root, "BraTS-GLI", "BraTS-SSA")
    assert [c.patient for c in datasets.load("brats", root).cases] == ["BraTS-SSA-00001", "BraTS-SSA-00002", "BraTS-SSA-00003"]


@pytest.mark.parametrize("a,b", [("2018", "2021"), ("2023", "2024"), ("2020", "msd")])
def test_two_layouts_in_one_folder_are_not_guessed_between(made, tmp_path, a, b):
    for layout in (a, b):
        shutil.copytree(made / layout, tmp_path / "both" / layout)
    refused("DATA_MISSING", tmp_path / "both", "2 layouts", f"3 cases of {a}", f"3 cases of {b}")


def test_no_layout_says_what_was_looked_for_and_what_is_there(tmp_path):
    refused("DATA_MISSING", tmp_path, "0 layouts (an empty folder)", "BraTS2021_", "imagesTr/BRATS_")
    (tmp_path / "patient7").mkdir()
    refused("DATA_MISSING", tmp_path, "0 layouts (patient7)")
    refused("DATA_MISSING", tmp_path / "nowhere", "no such folder")


def test_a_case_in_two_folders_is_refused(copy):
    root = copy("2018")
    shutil.copytree(root / "HGG/Brats18_SYN_2_1", root / "LGG/Brats18_SYN_2_1")
    refused("DATA_PATH", root, "case Brats18_SYN_2_1 a second time")


@pytest.mark.parametrize(
    "release,good,bad",
    [
        ("2017", (0, 1, 2, 4), 3),
        ("2021", (0, 1, 2, 4), 3),
        ("2023", (0, 1, 2, 3), 5),
        ("2024", (0, 1, 2, 3, 4), 5),
        ("msd", (0, 1, 2, 3), 4),
    ],
)
def test_each_release_has_its_own_label_values(release, good, bad):
    expected = {"msd": [0, 2, 1, 3]}.get(release, list(range(len(good))))
    for dtype in (np.uint8, np.int16, np.float32):
        assert brats.map_mask(release, np.array(good, dtype)).tolist() == expected
    for wrong in (bad, -1, 1.5, np.nan):
        with pytest.raises(DataError) as caught:
            brats.map_mask(release, np.array([0, 1, wrong]))
        assert caught.value.code == "DATA_LABEL"


def test_the_decathlons_channels_go_by_the_names_in_its_list(copy):
    root = copy("msd")
    whole = read(datasets.load("brats", root), datasets.load("brats", root).cases[0])[0]
    listing = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").unlink()  # then the usual order
    np.testing.assert_array_equal(read(datasets.load("brats", root), datasets.load("brats", root).cases[0])[0], whole)
    for path in (root / "imagesTr").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[..., ::-1], image.affine), path)
    listing["modality"] = {str(i): name for i, name in enumerate(("T2w", "t1gd", "T1w", "FLAIR"))}
    (root / "dataset.json").write_text(json.dumps(listing))
    data = datasets.load("brats", root)
    np.testing.assert_array_equal(read(data, data.cases[0])[0], whole)
    for content, code in (
        ("{", "DATA_TABLE"),
        ('{"modality": {"0": "CT"}}', "DATA_TABLE"),
        ('{"modality": {"0": "FLAIR"}}', "DATA_IMAGE"),
    ):
        (root / "dataset.json").write_text(content)
        with pytest.raises(DataError) as caught:
            read(data, data.cases[0])
        assert caught.value.code == code
