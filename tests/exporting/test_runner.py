"""The runner inside an exported model reads, prepares, joins windows and post-processes as jaxseg does, number for number."""

import dataclasses

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import geometry, layout
from jaxseg.data.formats import volumes
from jaxseg.data.prepare import canvas, intensity, resample
from jaxseg.data.records import Recipe
from jaxseg.exporting.runner import images, preparation, windows
from jaxseg.exporting.runner import model as runner
from jaxseg.infer import labels, postprocess, tiles
from jaxseg.infer.examples import Preparation
from jaxseg.infer.window import sliding_window
from jaxseg.metrics import regions
from jaxseg.ops import coordinates

AFFINE = np.array([[0.05, -1.2, 0.1, 3], [1.9, 0.04, 0, -20], [0, 0.1, -0.8, 5], [0, 0, 0, 1]])  # oblique, axes exchanged
NNUNET = {"filter": "nnunet", "nonzero": True, "fit": "patches"}
CASES = {  # name -> (fields of the recipe, kind of image)
    "pictures": ({"size": (20, 24), "channels": 3}, "colour"),
    "grey of colour": ({"size": (50, 24), "channels": 1, "filter": "lanczos"}, "colour"),
    "16 bits": ({"size": (40, 40), "channels": 3, "window": (900.0, 1500.0), "crop": (24, 30)}, "deep"),
    "slices": (
        {"size": (32, 32), "channels": 1, "window": (90.0, 150.0), "spacing": (1.5, 1.1), "fit": "centre", "plane": "coronal"},
        "scan",
    ),
    "blurred ct": ({"size": (16, 40), "channels": 1, "window": (90.0, 150.0), "intensity": "ct", "blur": 0.7}, "scan"),
    "patches": ({"size": (8, 8), "channels": 1, "intensity": "zscore", "fit": "patches", "spacing": (2.0, 1.0)}, "scan"),
    "volumes": (
        {"size": (8, 8, 8), "channels": 1, "window": (90.0, 150.0), "spacing": (1.0, 1.4, 2.0), "fit": "patches"},
        "scan",
    ),
    "brain": (
        {
            "size": (8, 8, 8),
            "channels": 2,
            "intensity": "brain",
            "fit": "patches",
            "modalities": ("t1", "t2"),
            "crop": (10, 11, 8),
        },
        "two",
    ),
    "nnunet": (
        {
            "size": (8, 8, 8),
            "channels": 2,
            "intensity": "zscore_nonzero+ct_zscore",
            "spacing": (3.9, 0.9, 1.0),
            "modalities": ("a", "b"),
        }
        | {"statistics": ((), (20.0, 150.0, 80.0, 30.0)), "axes": (2, 1, 0), "orientation": "ras"}
        | NNUNET,
        "two",
    ),
    "nnunet pictures": (
        {"size": (8, 8, 1), "channels": 3, "intensity": "rgb_to_01", "spacing": (1.2, 1.0, 0.0), "orientation": "file"} | NNUNET,
        "colour",
    ),
    "own voxels": (
        {"size": (8, 8, 8), "channels": 2, "intensity": "zscore_own_nonzero", "fit": "patches", "modalities": ("t1", "t2")},
        "two",
    ),
    "monai": (
        {"size": (8, 8, 8), "channels": 1, "intensity": "zscore_own_nonzero", "spacing": (1.3, 1.1, 2.0), "fit": "patches"}
        | {"filter": "monai", "orientation": "ras"},
        "scan",
    ),
    "monai last": (
        {"size": (8, 8, 8), "channels": 1, "intensity": "rescale_to_01", "spacing": (0.7, 0.0, 1.5), "fit": "patches"}
        | {"filter": "monai_last"},
        "scan",
    ),
    "ranges": ({"size": (8, 8, 8), "channels": 1, "intensity": "rescale_to_01", "orientation": "file", "fit": "patches"}, "scan"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Kind -> paths of the images of a case."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    scan = random.integers(0, 200, (14, 12, 17)).astype(np.int16)
    scan[:2], scan[:, :, 15:] = 0, 0
    for i, dtype in enumerate((np.int16, np.float32)):
        nibabel.save(nibabel.Nifti1Image((scan + i * (scan > 0)).astype(dtype), AFFINE), folder / f"{i}.nii.gz")
    Image.fromarray(random.integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(folder / "colour.png")
    Image.fromarray(random.integers(0, 2000, (30, 44)).astype(np.uint16)).save(folder / "deep.png")
    found = {"colour": ["colour.png"], "deep": ["deep.png"], "scan": ["0.nii.gz"], "two": ["0.nii.gz", "1.nii.gz"]}
    return {kind: [folder / name for name in names] for kind, names in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_images_are_prepared_and_logits_restored_as_by_jaxseg(name, files):
    fields, kind = CASES[name]
    recipe = Recipe(**{"window": None, "spacing": None, "labels": ("a", "b"), **fields})
    rank = len(recipe.size)
    theirs = Preparation(layout.of(recipe))
    expected = theirs.prepare([volumes.read_volume(path) for path in files[kind]])
    found = preparation.prepare([images.read_image(path) for path in files[kind]], dataclasses.asdict(recipe), rank)
    assert found.inputs.dtype == expected.inputs.dtype
    exact = found.inputs.dtype == np.uint8  # Pillow chooses which axis it resamples first, so that floats differ in the last bit
    np.testing.assert_allclose(found.inputs, expected.inputs, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
    assert found.inputs.std() > 0.1
    logits = np.random.default_rng(1).normal(size=(*found.inputs.shape[:-1], 3)).astype(np.float32)
    fill = labels.background(3)
    wanted = theirs.restore(expected, logits, fill)
    if "monai" in recipe.filter:  # which resamples probabilities
        soft = labels.probabilities(logits[0], sigmoid=False)
        back = preparation.restore(soft, found.shape, dataclasses.asdict(recipe), found.place, fill)
        back = labels.logits_of(back, sigmoid=False)
    elif rank == 3:
        back = preparation.restore(logits[0], found.shape, dataclasses.asdict(recipe), found.place, fill)
    else:
        back = np.stack(
            [preparation.restore(one, found.shape[1:], dataclasses.asdict(recipe), found.place, fill) for one in logits]
        )
    np.testing.assert_allclose(back, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.orientation.restore(wanted), expected.orientation.restore(wanted))


def test_every_value_of_a_recipe_is_followed_or_refused():
    """What is added to the preparation must be added to the runner, or stays refused by name."""
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert fields == {*preparation.KNOWN, *preparation.FREE}
    for name, there in (
        ("intensity", intensity.RULES),
        ("filter", resample.FILTERS),
        ("fit", canvas.FITS),
        ("orientation", geometry.ORIENTATIONS),
        ("plane", ("", *geometry.PLANES)),
    ):
        assert {*preparation.KNOWN[name]} == {*there}, name
    assert set(runner._STEPS) == set(postprocess.STEPS)
    assert set(tiles._BLENDS) == {"constant", "gaussian", "gaussian_nnunet", "cosine", "half_cosine"}
    assert set(tiles._RULES) == {"monai", "nnunet"}


def test_windows_are_joined_as_by_jaxseg():
    image = np.random.default_rng(0).normal(size=(9, 14, 5, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    position = np.random.default_rng(2).normal(size=(6, 6, 6, 3)).astype(np.float32)
    forward = lambda x: x @ weights + position  # what a window gives depends on the place within it
    for positions, blend, overlap in (
        ("monai", "constant", 0.25),
        ("nnunet", "gaussian_nnunet", 0.5),
        ("monai", "gaussian", (0.1, 0.5, 0.0)),
        ("nnunet", "cosine", 0.3),
        ("monai", "half_cosine", 0.6),
    ):
        rule = {"window": (6, 6, 6), "overlap": overlap, "positions": positions, "blend": blend, "sums": "float32"}
        found = windows.slide(forward, image, rule, 4, 3)
        wanted = sliding_window(jax.tree_util.Partial(_forward, weights, position), image[None], num_classes=3, batch=4, **rule)[
            0
        ]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_coordinates_are_those_of_the_whole_image_and_batches_are_filled_up():
    opened, seen = runner.Model.__new__(runner.Model), []
    opened.about = {"application": {"coordinates": True, "windows": False, "batch": 2}, "program": {"batch": None, "outputs": 5}}
    opened.__dict__["_forward"] = lambda images: seen.append(len(images)) or images
    image = np.random.default_rng(0).normal(size=(3, 4, 6, 5, 2)).astype(np.float32)
    found = opened._logits(image)
    assert seen == [2, 2]
    for one, given in zip(found, image, strict=True):
        np.testing.assert_array_equal(one, np.asarray(coordinates.append(given)))


def _forward(weights, position, x):
    return x @ weights + position


def test_labels_and_probabilities_of_classes_and_regions_are_jaxsegs():
    random = np.random.default_rng(0)
    opened = runner.Model.__new__(runner.Model)
    for k, order in ((1, ()), (2, ()), (5, ()), (3, regions.class_table(regions.BRATS))):
        logits = random.normal(size=(6, 5, 4, k)).astype(np.float32)
        opened.about = {"threshold": 0.4, "order": list(order)}
        np.testing.assert_array_equal(opened._labels(logits), labels.labels_of(logits, order=order, threshold=0.4))
        np.testing.assert_array_equal(opened._probabilities(logits), labels.probabilities_of(logits, regions=bool(order)))


@pytest.mark.parametrize("shape", [(40, 36), (14, 12, 10)])
def test_post_processing_is_jaxsegs(shape):
    found = np.random.default_rng(3).choice(4, shape, p=(0.8, 0.1, 0.06, 0.04)).astype(np.uint8)
    spacing = (1.0, 2.0, 0.5)[: len(shape)]
    for step, options in (
        ("keep_largest", {}),
        ("keep_largest", {"classes": [2, 3], "connectivity": 1}),
        ("keep_largest", {"classes": [3], "connectivity": 1, "ties": "all"}),
        ("remove_small", {"min_mm3": 6.0, "classes": [1]}),
        ("remove_small", {"min_voxels": 3, "connectivity": 1}),
        ("fill_holes", {}),
        ("fill_holes", {"classes": [1, 2]}),
        ("relabel_small", {"from_class": 3, "to": 1, "below": 10**6}),
    ):
        steps = [{"step": step, "options": options}]
        wanted = postprocess.apply(found, steps, spacing)
        assert (wanted != found).any(), step
        np.testing.assert_array_equal(runner.postprocess(found, steps, spacing), wanted)


def test_nifti_files_are_read_and_written_as_by_nibabel(tmp_path):
    array = np.random.default_rng(0).integers(0, 500, (5, 6, 7)).astype(np.int16)
    rotation = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1.0]]) @ np.diag([1, 2, 3, 1])
    for name, kind, form in (("a.nii", nibabel.Nifti1Image, "qform"), ("b.nii.gz", nibabel.Nifti2Image, "sform")):
        image = kind(array, None)
        getattr(image, f"set_{form}")(rotation, 1)
        getattr(image, f"set_{'qform' if form == 'sform' else 'sform'}")(None, 0)
        image.header["pixdim"][1:4] = (1, 2, 3)
        image.header.set_slope_inter(0.5, -3.0)
        swapped = image.header.as_byteswapped(">") if name == "a.nii" else image.header
        nibabel.save(kind(array, None, swapped), tmp_path / name)
        theirs, ours = nibabel.load(tmp_path / name), images.read_image(tmp_path / name)
        np.testing.assert_allclose(ours.array, theirs.get_fdata(), rtol=1e-6)
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)
        images.write_result(tmp_path / "labels.nii.gz", (array > 200).astype(np.uint16), ours)
        back = nibabel.load(tmp_path / "labels.nii.gz")
        assert back.get_data_dtype() == np.uint8 and (np.asarray(back.dataobj) == (array > 200)).all()
        np.testing.assert_allclose(back.affine, theirs.affine, atol=1e-6)
        assert [int(back.header[f]) for f in ("qform_code", "sform_code")] == [
            int(theirs.header[f]) for f in ("qform_code", "sform_code")
        ]


def test_what_could_be_read_in_two_ways_is_refused(tmp_path):
    array = np.zeros((5, 6, 7), np.float32)
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1, 3, 1]))
    image.header["pixdim"][3] = 2
    nibabel.save(nibabel.Nifti1Image(array, None, image.header), tmp_path / "sizes.nii")
    header = bytearray((tmp_path / "sizes.nii").read_bytes())
    header[252:256] = bytes(4)  # no qform, no sform
    (tmp_path / "nowhere.nii").write_bytes(header)
    (tmp_path / "short.nii").write_bytes(header[:-8])
    np.save(tmp_path / "scan.npy", array)
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(tmp_path / "palette.png")
    (tmp_path / "series.dcm").write_bytes(b"")
    for name, message in (
        ("nowhere.nii", "sform"),
        ("short.nii", "sform|agree"),
        ("scan.npy", "spacing"),
        ("palette.png", "mode P"),
        ("series.dcm", "convert it"),
    ):
        with pytest.raises(images.Refused, match=message):
            images.read_image(tmp_path / name)
    one, other = (images.image_of(array, spacing=(1, 1, size)) for size in (3, 2))
    with pytest.raises(images.Refused, match="does not lie on the grid"):
        preparation.prepare([one, other], {}, 3)


def test_a_turned_photograph_is_read_upright_and_its_result_lies_as_the_file(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[274] = turn
        Image.fromarray(array).save(tmp_path / "photo.png", exif=exif)
        ours, theirs = images.read_image(tmp_path / "photo.png"), volumes.read_volume(tmp_path / "photo.png")
        np.testing.assert_array_equal(ours.array, theirs.array)
        labels = (ours.array[..., 0] > 90).astype(np.uint8)
        images.write_result(tmp_path / "ours.png", labels, ours)
        volumes.write_like(tmp_path / "theirs.png", labels, theirs)
        one, other = (Image.open(tmp_path / f"{who}.png") for who in ("ours", "theirs"))
        np.testing.assert_array_equal(np.array(one), np.array(other))
        assert one.getexif().get(274) == other.getexif().get(274)
