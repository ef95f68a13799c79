"""The table of classes against counts by hand."""

import numpy as np
import pytest

from jaxseg.data.check.classes import Classes, lower_end


@pytest.mark.parametrize(
    "amount, end", [(1, 1), (2.9, 1), (3, 3), (9, 3), (10, 10), (29, 10), (1000, 1000), (0.3, 0.3), (0.05, 0.03), (0.1, 0.1)]
)
def test_ends_of_the_bins(amount, end):
    assert lower_end(amount) == pytest.approx(end, rel=1e-9)


def test_the_table_counts_images_and_amounts():
    classes = Classes(("liver", "cyst"), "pixels")
    for counts in ([12, 0], [400, 5], [13, 0], [0, 0]):
        classes.add(np.array(counts))
    rows = [line.split() for line in classes.lines()]
    assert rows == [
        ["class", "with", "without", "pixels", "from", "3", "10", "30", "100", "300"],
        ["liver", "3", "1", "425", "0", "2", "0", "0", "1"],
        ["cyst", "1", "3", "5", "1", "0", "0", "0", "0"],
    ]


def test_volumes_are_in_millilitres_and_nothing_is_a_table_too():
    classes = Classes(("a",), "ml")
    assert classes.lines()[1].split() == ["a", "0", "0", "0"]
    classes.add(np.array([5000]), 0.002)  # voxels of 2 mm^3
    assert classes.lines()[1].split() == ["a", "1", "0", "10", "1"]
