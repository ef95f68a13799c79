"""The table of faults: every row is held by a test or says why not, and the page is what the code says."""

import pytest

from tests import fault_table


def test_every_row_is_held_by_a_test_or_says_why_not_and_no_test_names_another():
    held = fault_table.holders()
    assert not held.keys() - fault_table.ROWS.keys() and not fault_table.NOT_HELD.keys() - fault_table.ROWS.keys()
    assert not fault_table.ROWS.keys() - held.keys() - fault_table.NOT_HELD.keys()


def test_the_page_lists_the_rows_of_the_code_and_keeps_what_ran_last():
    page = fault_table.PAGE.read_text()
    assert fault_table.written(page, {}, {}) == page, "run `python -m tests.fault_table`"
    later = fault_table.written(page, {"F1": "1 failed, 2.0 s, today"}, {"kills": "3"})
    assert "| 1 failed, 2.0 s, today |" in later and "| kills | 3 |" in later
    assert fault_table.written(later, {}, {}) == later


@pytest.mark.parametrize("ends, cell", [(["passed", "failed"], "1 failed, 1 passed"), (["skipped"], "1 skipped")])
def test_the_cell_of_a_row_counts_what_became_of_its_tests(ends, cell):
    outcomes = {str(i): (end, 0.5) for i, end in enumerate(ends)}
    assert fault_table.summed(outcomes, len(ends)).startswith(f"{cell}, {0.5 * len(ends):.1f} s, ")
    assert fault_table.summed(outcomes, 5).startswith(f"{len(ends)} of 5 tests: {cell}, ")
