"""The measured table and the rules that pick lowerings say the same."""

import pytest

from jaxseg.bench import convolutions as bench
from jaxseg.ops.conv.cpu import choose, table


@pytest.mark.parametrize("row", table.ROWS, ids=lambda r: f"{r.shape.name} {r.direction}")
def test_rule_picks_the_lowering_that_was_measured(row):
    shape = row.shape
    w_shape = (*shape.kernel, shape.x[-1] // shape.groups, shape.out)
    assert bench.name_of(getattr(choose.lowerings(shape.spec, shape.x, w_shape), row.direction)) == row.lowering


def test_no_choice_is_slower_than_xla_by_more_than_a_twentieth():
    assert {f"{row.shape.name} {row.direction}": row.ratio for row in table.ROWS if row.ratio > 1.05} == {}


def test_every_shape_is_measured_in_every_direction():
    assert {(r.shape, r.direction) for r in table.ROWS} == {(s, d) for s in table.S.values() for d in bench.DIRECTIONS}
