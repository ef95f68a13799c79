"""Equal errors of many cases are one line with a count."""

from jaxseg.data.error_summary import FEW, ErrorSummary, summarised
from jaxseg.types import DataError


def error(case: str, value: float) -> DataError:
    return DataError(f"/data/{case}.nii.gz: {case} holds {value} where 1.5 is the most; mend it", "DATA_X")


def test_errors_that_differ_in_names_and_numbers_alone_are_one_line():
    found = {f"c{i}": error(f"c{i}", 1.7 + i) for i in range(30)} | {"z": DataError("z: empty", "DATA_X")}
    lines = summarised(found)
    assert lines == [f"30 cases (c0, c1, c2, ...): [DATA_X] the first: {found['c0']}", "z: [DATA_X] z: empty"]
    assert len(summarised(dict(list(found.items())[:FEW]))) == FEW


def test_lists_of_values_differ_in_length_and_colours():
    lists = ("0 (97.3 %), 1 (2.67 %)", "0 (92 %), 1 (7.7 %), 2 (0.013 %)", "#ff0000 (90 %), #00ff00 (10 %)", "3 (100 %)")
    found = {f"c{i}": DataError(f"/m/c{i}.jpg: values {text}; no mask", "DATA_LABEL") for i, text in enumerate(lists)}
    assert len(summarised(found)) == 1
    other = DataError("/m/d.jpg: values 0 (97.3 %), 1 (2.67 %); two masks", "DATA_LABEL")
    assert len(summarised({**found, "d": other})) == 2


def test_errors_that_come_one_after_another_are_said_a_few_times():
    failed = ErrorSummary()
    assert [failed.add(f"c{i}", error(f"c{i}", i)) for i in range(30)] == [True] * FEW + [False] * 27
    assert failed.add("z", ValueError("another")) and failed.count == 31
    assert failed.rest() == ["27 more like c0"]
