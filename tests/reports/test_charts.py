"""Axes of charts: their ticks are round, and those of whole numbers whole."""

import pytest

from jaxseg.reports.charts import axis_of


@pytest.mark.parametrize("last", [2, 3, 8, 13, 60, 300])
def test_an_axis_of_whole_numbers_has_whole_ticks(last):
    ticks = axis_of([1, last], "epoch", low=1, high=last, whole=True).ticks()
    assert 2 <= len(ticks) <= 7 and all(tick % 1 == 0 and 1 <= tick <= last for tick in ticks)
    assert any(tick % 1 for tick in axis_of([0, 1], "Dice").ticks())
