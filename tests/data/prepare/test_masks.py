"""What the values and colours of masks mean: right, or refused with a table that works when it is given."""

import ast
import dataclasses
import io
import re

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg.data import datasets
from jaxseg.data.prepare import mask_values, masks
from jaxseg.data.records import Recipe
from jaxseg.data.store import base, stacked
from jaxseg.types import ConfigError, DataError

DISC = np.hypot(*(np.mgrid[:40, :48] - np.array([18, 20])[:, None, None])) < 9
RED, YELLOW = (255, 0, 0), (255, 255, 0)


def palette(indices, *colours):
    """A palette picture; the rest of its 256 colours is black."""
    image = Image.fromarray(np.asarray(indices, np.uint8), mode="P")
    image.putpalette([c for colour in colours for c in colour] + [0] * (768 - 3 * len(colours)))
    return image


def saved(tmp_path, image, name="m.png", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def refused(path, classes=1, table=()):
    with pytest.raises(DataError) as caught:
        masks.read(path, classes, table)
    assert caught.value.code == "DATA_LABEL" and "\n" not in str(caught.value)
    return str(caught.value)


def proposed(message):
    """The table that a refusal proposes, as the command line reads it."""
    return ast.literal_eval(re.search(r'--config\.data\.mask_values="(.*?)"', message)[1])


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
ONE = DISC.astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        ONE,
        ONE * 255,
        (ONE * np.uint16(65535)),
        np.repeat((ONE * 255)[..., None], 3, -1),
        Image.fromarray(ONE * 255).convert("1"),
        Image.merge("LA", [Image.fromarray(ONE * 255), Image.new("L", (48, 40), 255)]),
        Image.merge("RGBA", [Image.fromarray(ONE * 255)] * 3 + [Image.new("L", (48, 40), 255)]),
        palette(ONE, BLACK, RED),  # an index picture
        palette(1 - ONE, WHITE, BLACK),  # drawn white on black, white first
        palette(ONE * 7, BLACK, *[RED] * 6, WHITE),
    ],
    ids=["numbers", "255", "16 bits", "rgb", "1 bit", "grey and alpha", "rgba", "indices", "white first", "white last"],
)
@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_a_mask_of_one_class_is_read_as_it_is_drawn(tmp_path, image, name):
    found = masks.read(saved(tmp_path, image, name), 1)
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array, DISC)


def test_a_tiff_whose_zeros_are_white_is_read_as_it_is_drawn(tmp_path):
    path = saved(tmp_path, Image.fromarray(ONE * 255).convert("1"), "m.tif", tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    np.testing.assert_array_equal(masks.read(path, 1).array, DISC)


@pytest.mark.parametrize(
    "image, classes, said",
    [
        (palette(ONE, RED, YELLOW), 1, r"#ff0000.*%.*#ffff00"),  # no background
        (palette(ONE, WHITE, RED), 1, "white.*#ff0000"),
        (palette(ONE, BLACK, BLACK), 1, "black"),  # the colours say nothing
        (palette(ONE * 2, BLACK, RED, YELLOW), 1, "index 2"),  # which structure is it?
        (palette(1 + ONE, WHITE, BLACK, RED), 2, "have black as index 0"),
        (ONE * 2 + np.eye(40, 48, dtype=np.uint8) * 255, 2, "pixels to ignore can only be mapped to background"),
        (ONE + np.eye(40, 48, dtype=np.uint8) * 254 * (1 - ONE), 1, "unexpected label values"),
        (ONE * 128, 1, r"128 \(13 %\)"),
        (np.where(DISC[..., None], RED, BLACK).astype(np.uint8), 1, "2 colours.*#ff0000"),
        (ONE * np.uint16(256), 1, "256"),
    ],
)
@pytest.mark.fault("D17")
def test_a_doubtful_mask_is_refused_and_the_proposed_table_reads_it(tmp_path, image, classes, said):
    path = saved(tmp_path, image)
    message = refused(path, classes)
    assert re.search(said, message), message
    if names := re.search("name . classes .--config.data.structures=([a-h,]+)", message):
        classes = len(names.group(1).split(","))
    table = mask_values.table_of(proposed(message), classes)
    found = masks.read(path, classes, table)
    assert found.array.any() and found.array.max() <= classes and found.meaning[0].kind == "data.mask_values"


def test_two_classes_without_names_are_not_proposed_as_one(tmp_path):
    numbers = np.zeros((8, 9), np.uint8)
    numbers[2:4], numbers[5:6] = 1, 2
    message = refused(saved(tmp_path, numbers))
    assert "for 2 classes list all of them in data.structures (--config.data.structures=a,b), or" in message
    assert "mask_values" not in message  # they are class numbers
    colours = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.uint8)[numbers]  # no black: most of it is background
    assert proposed(refused(saved(tmp_path, colours))) == (("#0000ff", 0), ("#00ff00", 1), ("#ff0000", 2))


def test_transparent_pixels_of_a_palette_are_no_foreground(tmp_path):
    path = saved(tmp_path, palette(1 - ONE, WHITE, BLACK), transparency=0)
    refused(path)
    path = saved(tmp_path, palette(ONE, BLACK, RED), transparency=0)
    np.testing.assert_array_equal(masks.read(path, 1).array, DISC)


def jpeg(tmp_path, array, quality=90):
    return saved(tmp_path, np.asarray(array, np.uint8), "m.jpg", quality=quality)


@pytest.mark.parametrize("quality", [15, 40, 75, 95])
def test_a_black_and_white_jpeg_is_cut_at_127(tmp_path, quality):
    half = Image.fromarray(ONE * 255).resize((96, 80)).resize((48, 40))  # a soft border
    for image in (ONE * 255, np.asarray(half), np.repeat((ONE * 255)[..., None], 3, -1), ONE * 0, ONE * 0 + 255):
        path = jpeg(tmp_path, image, quality)
        raw = np.asarray(Image.open(path).convert("L"))
        np.testing.assert_array_equal(masks.read(path, 1).array, raw > 127)


def test_values_to_ignore_are_proposed_as_background_and_never_as_a_class(tmp_path):
    for classes, ignored in ((1, 255), (2, 255), (3, 255)):
        raw = ONE.copy()
        raw[:2] = ignored
        path = saved(tmp_path, raw)
        table = mask_values.table_of(proposed(refused(path, classes)), classes)
        np.testing.assert_array_equal(masks.read(path, classes, table).array, DISC)
        drawn = palette(raw, BLACK, RED, *[BLACK] * 253, (224, 224, 192))  # as Pascal VOC draws borders
        message = refused(saved(tmp_path, drawn), classes)
        table = mask_values.table_of(proposed(message), classes)
        assert "pixels to ignore can only be mapped to background" in message
        np.testing.assert_array_equal(masks.read(path, classes, table).array, DISC)


def test_layouts_that_say_what_values_mean_take_no_jpeg(tmp_path):
    with pytest.raises(DataError, match="JPEG does not keep class numbers"):
        masks.read_numbers(jpeg(tmp_path, ONE))
    np.testing.assert_array_equal(masks.read_numbers(saved(tmp_path, ONE)).array, ONE)


@pytest.mark.parametrize(
    "array, said",
    [
        (ONE, r"values 0 \(\d+\.?\d* %\), 1 \("),
        (ONE * 128, r"128 \("),
        (np.where(DISC[..., None], RED, BLACK), r"colours, about black \(.*#ff0000 \("),
        (255 * ONE + 128 * np.roll(ONE, 20, 1) * (1 - ONE), "12[789]"),
        (254 + ONE, "254"),
        (255 * ONE + 50 * np.roll(ONE, 20, 1) * (1 - ONE), "50"),  # a second structure in dark grey
        (255 * ONE - 55 * np.roll(ONE, 8, 1) * ONE, "199"),
    ],
)
@pytest.mark.fault("D17")
def test_other_jpegs_are_refused_with_what_is_in_them(tmp_path, array, said):
    message = refused(jpeg(tmp_path, array))
    assert re.search(said, message) and "export the masks as .png" in message, message
    assert "a JPEG mask of 2 classes" in refused(jpeg(tmp_path, ONE), 2)


@pytest.mark.parametrize("quality", [60, 90])
def test_a_jpeg_of_colours_is_read_by_the_proposed_table(tmp_path, quality):
    two = ONE + 2 * np.roll(ONE, 21, 1)
    drawn = np.array([BLACK, RED, YELLOW], np.uint8)[two]
    path = jpeg(tmp_path, drawn, quality)
    table = mask_values.table_of(proposed(refused(path)), 1)
    assert table == (("#000000", 0), ("#ff0000", 1), ("#ffff00", 1)) and masks.read(path, 1, table).array.any()
    found = masks.read(path, 2, (*table[:2], ("#ffff00", 2))).array
    inside = ndimage.distance_transform_edt(np.pad(two, 1) == 0), ndimage.distance_transform_edt(two)
    assert (found != two).mean() < 0.02 and not found[inside[0][1:-1, 1:-1] > 2].any()
    assert (found == two)[inside[1] > 2].all()
    for colours, said in ((("#818141", "#ffffff"), "#818141 lies between"), (("#202020", "#ffffff"), "#000000 and #202020")):
        table = mask_values.table_of((("#000000", 0), *((c, k) for k, c in enumerate(colours, 1))), 2)
        assert said in refused(path, 2, table)


def test_jpeg_is_known_by_its_content_also_inside_of_tiff(tmp_path):
    data = io.BytesIO()
    Image.fromarray(ONE).save(data, "JPEG")
    (tmp_path / "named.png").write_bytes(data.getvalue())
    Image.fromarray(ONE).save(tmp_path / "m.tif", compression="jpeg")
    for name in ("named.png", "m.tif"):
        assert "JPEG changes values" in refused(tmp_path / name)


def test_a_table_takes_jpegs_drawn_black_on_white(tmp_path):
    table = mask_values.table_of(((255, 0), (0, 1)), 1)
    np.testing.assert_array_equal(masks.read(jpeg(tmp_path, 255 - 255 * ONE), 1, table).array, DISC)


def test_a_table_of_colours_reads_rgb_palettes_and_grey(tmp_path):
    two = ONE + np.roll(ONE, 21, 1)
    two[np.roll(DISC, 21, 1)] = 2
    table = mask_values.table_of((("#000000", 0), ("#FF0000", 1), ("#ffff00", 2)), 2)
    colours = np.array([BLACK, RED, YELLOW], np.uint8)
    for image in (colours[two], palette(two, BLACK, RED, YELLOW), palette(2 - two, YELLOW, RED, BLACK)):
        np.testing.assert_array_equal(masks.read(saved(tmp_path, image), 2, table).array, two)
    assert "#00ff00" in refused(saved(tmp_path, palette(two, BLACK, RED, (0, 255, 0))), 2, table)
    grey = mask_values.table_of((("#000000", 0), ("#646464", 1)), 1)
    np.testing.assert_array_equal(masks.read(saved(tmp_path, ONE * 100), 1, grey).array, DISC)


def test_a_table_of_values_reads_volumes(tmp_path):
    raw = np.stack([ONE * 100, ONE * 200, -1.0 * ONE], -1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(raw, np.eye(4)), tmp_path / "m.nii.gz")
    table = mask_values.table_of(((0, 0), (100, 1), (200, 2), (-1, 0)), 2)
    found = masks.read(tmp_path / "m.nii.gz", 2, table).array
    np.testing.assert_array_equal(found, np.stack([ONE, ONE * 2, ONE * 0], -1))
    assert "200 (" in refused(tmp_path / "m.nii.gz", 1, mask_values.table_of(((0, 0), (100, 1), (-1, 0)), 1))


@pytest.mark.parametrize(
    "table, said",
    [
        (((0, 0), (1, 2)), "classes are 0 .background. to 1"),
        (((0, 0), (0, 1)), "twice"),
        (((0, 0), ("#ffffff", 1)), "only values or only colours"),
        ((("white", 1),), "not a colour"),
        ((0, 1), "must be"),
        (((0, True),), "must be"),
        (((0.5, 1),), "must be"),
    ],
)
def test_a_table_that_is_none_is_refused(table, said):
    with pytest.raises(ConfigError, match=said):
        mask_values.table_of(table, 1)


def test_predictions_have_the_values_of_a_table_that_gives_each_class_one(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.fromarray(ONE * 200).save(tmp_path / part / "a.png")
    values = lambda table, *names: datasets.load("folder", tmp_path, mask_values=table, structures=names or ("a",)).values
    assert values(((0, 0), (200, 1))) == (200,) and values(((0, 0), (128, 1), (200, 2), (7, 0)), "a", "b") == (128, 200)
    for table in (((0, 1), (200, 0)), ((0, 0), (1, 1), (2, 1)), (("#000000", 0), ("#c8c8c8", 1)), ()):
        assert values(table) == ()


@pytest.mark.parametrize("scale", [0.996078, 0.99608, 1.0039, 0.990001])
@pytest.mark.fault("D16")
def test_scaled_labels_are_rounded_and_others_refused(tmp_path, scale):
    raw = np.zeros((6, 5, 4), np.float32)
    raw[:3], raw[3], raw[4] = 1, 2, 6
    path = tmp_path / "m.nii.gz"
    nibabel.save(nibabel.Nifti1Image((raw * scale).astype(np.float32), np.eye(4)), path)
    found = masks.read(path, 6)
    np.testing.assert_array_equal(found.array, raw)
    assert found.array.dtype == np.uint8 and {m.kind for m in found.meaning} == {"rounded"}
    for wrong in (1.5, 0.97, 2.04, 6.07, 60.3):
        raw[5] = wrong
        nibabel.save(nibabel.Nifti1Image(raw, np.eye(4)), path)
        message = refused(path, 70)
        assert "unexpected label values" in message and "save it with whole numbers" in message and "set the class" not in message


def folder(tmp_path, *images):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i, image in enumerate(images):
        Image.fromarray(ONE * 100).save(tmp_path / "images" / f"{i}.png")
        saved(tmp_path / "masks", image, f"{i}.png")
    return datasets.load("folder", tmp_path)


def meanings_of(data):
    found = mask_values.Meanings()
    for case in data.cases:
        base.read_files(data, case, found)
    return found.lines(data.labels)


def test_what_was_concluded_is_said_once_for_a_set(tmp_path):
    data = folder(tmp_path, palette(1 - ONE, WHITE, BLACK), palette(1 - ONE, WHITE, BLACK), ONE * 255, ONE)
    inside = 100 * DISC.mean()
    assert meanings_of(data) == [
        f"palette in 2 files: index 1 (black) ({100 - inside:.3g} %) -> background, "
        f"index 0 (white) ({inside:.3g} %) -> foreground",
        f"values in 1 file: 0 ({100 - inside:.3g} %) -> background, 255 ({inside:.3g} %) -> foreground",
    ]


def test_a_store_that_is_built_says_it_and_one_that_is_found_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    data = folder(tmp_path, palette(1 - ONE, WHITE, BLACK), palette(1 - ONE, WHITE, BLACK))
    lines = [[], []]
    for said in lines:
        store = stacked.open_or_build(data, Recipe((40, 48), None, None, 1, data.labels), log=said.append)
        np.testing.assert_array_equal(store.mask(1), DISC)
    assert [sum(line.startswith("masks: palette in 2 files") for line in said) for said in lines] == [1, 0]


def test_scaled_labels_are_rounded_in_every_layout(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        raw = np.stack([ONE * 0.996, ONE * 5.976], -1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(raw, np.eye(4)), tmp_path / part / "a.nii")
    data = datasets.load("folder", tmp_path, structures=tuple("abcdef"))
    own = dataclasses.replace(data, read_mask=None, map_mask=lambda raw: np.array([0, 2, 9, 9, 9, 9, 1], np.uint8)[raw])
    mask = base.read_files(own, own.cases[0])[1].array
    np.testing.assert_array_equal(mask, np.stack([ONE * 2, ONE], -1))


def test_a_mask_that_is_mostly_foreground_is_doubted(tmp_path):
    assert "more than half is foreground" in meanings_of(folder(tmp_path, 255 - 255 * ONE))[0]


@pytest.mark.fault("D17")
def test_palettes_that_disagree_are_refused(tmp_path):
    data = folder(tmp_path, palette(ONE, BLACK, RED), palette(ONE, BLACK, YELLOW))
    with pytest.raises(DataError, match=r"index 1 \(#ffff00\), but index 1 \(#ff0000\) in case 0.*mask_values") as caught:
        meanings_of(data)
    assert caught.value.code == "DATA_LABEL"
    again = datasets.load("folder", tmp_path, mask_values=((0, 0), (1, 1)))
    assert len(meanings_of(again)) == 1


def test_more_than_255_classes_are_read_and_counted_in_16_bits(tmp_path):
    numbers = np.arange(40 * 48).reshape(40, 48) % 301
    data = folder(tmp_path, numbers.astype(np.uint16))
    named = datasets.load("folder", tmp_path, structures=tuple(map(str, range(300))))
    mask = base.read_files(named, named.cases[0])[1].array
    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask, numbers)
    assert "for 300 classes list all of them in data.structures" in refused(data.cases[0].mask)
    with pytest.raises(ConfigError, match="65536 structures.*at most 65535"):
        datasets.load("folder", tmp_path, structures=tuple(map(str, range(65536))))
