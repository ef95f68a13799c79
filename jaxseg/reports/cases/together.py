"""Several evaluations of the same cases side by side: models of a comparison, or a run before and after a change."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.reports import page
from jaxseg.reports.cases import pictures
from jaxseg.reports.charts import Chart, axis_of
from jaxseg.reports.reading import Read, dice_in_words
from jaxseg.types import MismatchError

Test = Callable[
    [Mapping[str, Mapping[str, float]], Mapping[str, str]], str
]  # (run -> case -> Dice, case -> patient) -> a sentence
MOST = 12  # cases that are shown side by side


def shared(folders: Mapping[str, Path], show: Callable[[str], str]) -> tuple[list[pictures.Shown], tuple[str, ...]]:
    """Return the examples of which several evaluations kept pictures, lowest Dice first, and the classes.

    Args:
      folders: name of a model -> the folder of its evaluation.
      show: converts names of cases for display.
    """
    indices, classes = {}, ()
    for name, folder in folders.items():
        index, classes_here = pictures.read(folder)
        classes = classes_here or classes
        indices[name] = {(facts["case"], facts.get("slice", "")): facts for facts in index}
    keys = {key for index in indices.values() for key in index}
    several = {key: [name for name in indices if key in indices[name]] for key in keys}
    lowest = lambda key: min(_value(indices[name][key]) for name in several[key])
    cases = []
    for key in sorted((key for key in keys if len(several[key]) > 1), key=lambda key: (lowest(key), key)):
        first, *others = several[key]
        arrays = pictures.arrays_of(folders[first], indices[first][key])
        title = show(key[0]) + (f", slice {key[1]}" if any(other[1] for other in keys) else "")
        case = pictures.Shown(indices[first][key], title, "", arrays, first)
        for name in others:
            more = pictures.arrays_of(folders[name], indices[name][key])
            if np.array_equal(more["truth"], case.truth):
                case.predictions[name] = more["prediction"]
        said = {
            name: f"{dice_in_words(indices[name][key])} ({indices[name][key]['reasons'] or 'right'})" for name in case.predictions
        }
        case.words, case.of_each = "; ".join(f"{name}: {words}" for name, words in said.items()), said
        if len(case.predictions) > 1:
            cases.append(case)
    return cases, classes


def side_by_side(folders: Mapping[str, Path], show: Callable[[str], str], *, megabytes: float) -> str:
    """Return a viewer with a choice of models, and below it their predictions for every case; "" if no case was kept twice."""
    cases, classes = shared(folders, show)
    cases = cases[:MOST]
    if not cases:
        return ""
    viewer, number = pictures.viewer(cases, classes, megabytes=0.8 * megabytes)
    rows = []
    for i, case in enumerate(cases):
        stills = "".join(
            f'<figure><img src="{pictures.still(case, name)}" alt="{page.text(f"{case.title} by {name}: {words}")}">'
            f"<figcaption><b>{page.text(name)}</b><br>{page.text(words)}</figcaption></figure>"
            for name, words in case.of_each.items()
        )
        opens = f' <button type="button" data-case="{i}">open</button>' if i < number else ""
        rows.append(f'<li><h3>{page.text(case.title)}{opens}</h3><div class="abreast">{stills}</div></li>')
    said = "Cases of which at least two kept the pictures (config.eval.keep), the lowest Dice first. M changes the prediction."
    return f'<p class="soft">{said}</p>{viewer}<ul class="rows">{"".join(rows)}</ul>'


def before_after(before: Read, after: Read, names: tuple[str, str], test: Test, *, megabytes: float, with_pictures: bool) -> str:
    """Compare two runs on the same cases, case by case, as HTML.

    Args:
      names: names of the two runs.
      test: returns the sentence about their difference.
    Raises:
      MismatchError: the runs have no case in common, or were scored on different data.
    """
    scores = {name: _by_example(read) for name, read in zip(names, (before, after))}
    common = [key for key in scores[names[1]] if key in scores[names[0]]]
    if not common:
        raise MismatchError(
            f"config.report.before={names[0]!r}: its evaluation has no case in common with that of {names[1]!r}; evaluate both "
            "runs on the same split, or name two runs of the same data"
        )
    cases: dict[str, dict[str, float]] = {name: {} for name in names}
    for name in names:
        for key in common:
            cases[name][f"{key[0]}\n{key[1]}"] = scores[name][key]
    patients = {f"{row['case']}\n{row.get('slice', '')}": str(row["patient"]) for row in after.cases}
    x, y = (axis_of([], f"Dice of {name}", low=0.0, high=1.0) for name in names)
    chart = Chart("Dice of every case before and after", x, y)
    chart.diagonal()
    rows = []
    for key in common:
        old, new = (scores[name][key] for name in names)
        title = after.show(key[0]) + (f", slice {key[1]}" if key[1] != "" else "")
        colour = page.COLOURS[2] if new >= old else page.COLOURS[1]
        chart.dot(old, new, colour, f"{title}: {old:.3f} before, {new:.3f} after")
        rows.append({"case": title, "before": old, "after": new, "change": new - old})
    rows.sort(key=lambda row: math.inf if math.isnan(row["change"]) else row["change"])
    better, worse = sum(row["change"] > 0 for row in rows), sum(row["change"] < 0 for row in rows)
    said = f"<p>{page.text(test(cases, patients))} {better} of {len(rows)} are better than before, {worse} are worse.</p>"
    drawn = page.figure(
        chart.svg(), f"Each case before ({names[0]}) and after ({names[1]}): above the dotted line it became better."
    )
    folders = {name: read.folder for name, read in zip(names, (before, after)) if read.folder}
    beside = side_by_side(folders, after.show, megabytes=megabytes) if with_pictures else ""
    return said + drawn + page.table(rows, "before and after", tall=len(rows) > 20) + beside


def _by_example(read: Read) -> dict[tuple[str, Any], float]:
    """Return the Dice of every example, mean over the classes or regions of the headline."""
    values: dict[tuple[str, Any], list[float]] = {}
    for row in read.cases:
        if row["class"] in read.found["headline"]:
            dice = float(row["dice"]) if page.is_number(row["dice"]) else math.nan
            values.setdefault((row["case"], row.get("slice", "")), []).append(dice)
    known = {key: [v for v in mine if not math.isnan(v)] for key, mine in values.items()}
    return {key: float(np.mean(v)) if v else math.nan for key, v in known.items()}


def _value(facts: Mapping[str, Any]) -> float:
    return float(facts["dice"]) if page.is_number(facts["dice"]) else 2.0
