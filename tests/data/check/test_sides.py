"""Classes named left and right are recognised, and only settings that exchange the sides give a warning."""

import pytest

from jaxseg.data.check import sides
from jaxseg.data.records import Recipe

PICTURE = Recipe((8, 8), None, None, 1, ())
VOLUME = Recipe((8, 8, 8), None, None, 1, ())
LUNGS = ("left lung", "right lung")


@pytest.mark.parametrize(
    "labels, named",
    [
        (LUNGS, LUNGS),
        (("kidney_left", "spleen", "kidney_right"), ("kidney_left", "kidney_right")),
        (("LeftHippocampus", "tumour"), ("LeftHippocampus",)),
        (("lung_L", "lung_R", "heart_l"), ("lung_L", "lung_R")),
        (("dark", "bright", "cleft", "l", "upright"), ()),
    ],
)
def test_names_that_say_a_side(labels, named):
    assert tuple(sides.paired(labels)) == named


@pytest.mark.parametrize(
    "recipe, augment, mirror, words",
    [
        (PICTURE, (("hflip", 0.5, {}), ("vflip", 0.5, {})), (), ("'hflip'", "set its option swap")),
        (PICTURE, (("hflip", 0.5, {"swap": ((1, 2),)}),), (), ()),
        (PICTURE, (("vflip", 0.5, {}), ("rotate", 0.5, {})), (0,), ()),
        (PICTURE, (("mirror", 0.5, {"axes": ("h",)}),), (1,), ("infer.mirror=(1,)",)),
        (VOLUME, (("mirror", 0.5, {}),), (), ("'mirror'", "and side to 'd', or leave it out")),  # d runs from right to left
        (VOLUME, (("mirror", 0.5, {"swap": ((1, 2),)}),), (), ("'mirror'",)),
        (VOLUME, (("mirror", 0.5, {"swap": ((1, 2),), "side": "d"}), ("dflip", 0.5, {"swap": ((1, 2),)})), (), ()),
        (VOLUME, (("hflip", 0.5, {}),), (2,), ()),
        (VOLUME, (("dflip", 0.5, {}),), (0,), ("'dflip'", "infer.mirror=(0,)")),
        (Recipe((8, 8, 8), None, None, 1, (), axes=(2, 1, 0)), (("hflip", 0.5, {}),), (2,), ("'hflip'", "infer.mirror=(2,)")),
        (Recipe((8, 8), None, None, 1, (), plane="sagittal"), (("hflip", 0.5, {}),), (1,), ()),
    ],
)
def test_what_exchanges_left_and_right(recipe, augment, mirror, words):
    lines = sides.warnings(LUNGS, recipe, augment, mirror)
    assert bool(lines) == bool(words) and all(word in " ".join(lines) for word in words)
    assert not sides.warnings(("a", "bright"), recipe, augment, mirror)
