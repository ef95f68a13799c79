"""What preparation leaves of an image is measured, and warned about where it is nothing."""

import numpy as np
import pytest

from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.intensity import of_values
from jaxseg.data.prepare.statistics import percentiles
from jaxseg.data.records import Recipe

RNG = np.random.default_rng(3)
HEAD = RNG.normal(40, 10, (6, 20, 20, 1))  # HU of a brain, with air around it
HEAD[:, :5] = -1000
MRI = np.abs(RNG.normal(600, 200, (6, 20, 20, 1)))
SEEN = np.clip((HEAD - (40 - 60)) / 120 * 255, 0, 255)  # the window's own formula


@pytest.mark.parametrize("count", [1, 2, 7, 500])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_percentiles_are_numpys_bit_for_bit(count, dtype):
    values = RNG.normal(100, 30, (count, 3)).astype(dtype)
    values[:, 1] = np.rint(values[:, 1] / 20)
    if count == 7:
        values[4, 2] = np.nan
    for wanted in ((0.5, 99.5), (0, 1, 37.5, 50, 99, 100)):
        for array in (values, values[:, 0]):
            assert percentiles(array, wanted).tobytes() == np.percentile(array, wanted, axis=0).astype(np.float64).tobytes()


def _recipe(window, intensity="ct", size=(8, 8, 8)):
    return Recipe(size, window, None, 1, ("a",), intensity)


def _levels(raw, recipe, case="a", placed=True):
    return contrast.levels_of(case, [raw], [of_values(raw, recipe)], placed=placed)


def _warned(raw, recipe, placed=True):
    return contrast.warnings([_levels(raw, recipe, placed=placed)], recipe)


def test_levels_are_those_of_the_values_before_and_after():
    recipe = _recipe((40.0, 120.0), "grey", (8, 8))
    found = _levels(HEAD, recipe)
    np.testing.assert_allclose(found.before, [np.percentile(HEAD, contrast.QUANTILES)], rtol=1e-5)
    np.testing.assert_allclose(found.after, [np.percentile(SEEN, contrast.QUANTILES)], rtol=1e-5)
    (before, after) = contrast.table([found, found])
    assert before.startswith("before preparation: lowest -1000") and "highest" in after and after.startswith("after")


def test_a_sound_window_is_no_warning():
    assert not _warned(HEAD, _recipe((40.0, 120.0)))
    assert not _warned(RNG.integers(0, 45, (20, 20, 3)), _recipe((22.0, 44.0), "grey", (8, 8)), placed=False)  # dark photographs


def test_windows_that_leave_nothing_are_told():
    (line,) = _warned(HEAD, _recipe((3000.0, 100.0)))
    assert "1 of 1 cases (a)" in line and "constant" in line and "data.window" in line
    (line,) = _warned(RNG.uniform(-1000, 3000, (6, 6, 6, 1)), _recipe((0.0, 100.0)))  # 100 of 3,920 HU
    assert "under 5% of their contrast" in line and "-50 to 50" in line
    assert not _warned(RNG.uniform(-1000, 3000, (6, 6, 6, 1)), _recipe((0.0, 250.0)))  # 6.4 %
    (line,) = _warned(RNG.uniform(-5, 5, (6, 6, 6, 1)), _recipe((0.0, 4000.0)))
    assert "fill under 5%" in line


def test_values_that_are_no_hu_are_told_with_the_remedy():
    (line,) = _warned(MRI, _recipe((40.0, 400.0)))
    assert "not HU" in line and "data.intensity=brain" in line and "data.window=()" in line
    assert not _warned(MRI, _recipe(None, "brain"))


@pytest.mark.fault("D20")
def test_values_that_no_scanner_writes_are_told_whatever_the_intensity():
    far = MRI.copy()
    far[0, 0, 0] = -3.4e38
    for recipe in (_recipe(None, "brain"), _recipe((40.0, 120.0))):
        lines = [line for line in _warned(far, recipe) if "no scanner" in line]
        assert len(lines) == 1 and lines[0].startswith("1 of 1 cases (a) with values from -3.4e+38 to ")
    assert not [line for line in _warned(1e3 * MRI[:, :2], _recipe(None, "brain")) if "no scanner" in line]


@pytest.mark.fault("D20")
def test_constant_files_are_told_apart_from_constant_windows():
    flat = np.full((4, 4, 4, 1), 7.0)
    (line,) = _warned(flat, _recipe((40.0, 400.0)))
    assert "as they were in their files" in line
