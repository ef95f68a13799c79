"""report.html of a search: the score of each trial, the values that were tried, and the importance of each key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.reports.charts import Chart, axis_of, svg
from jaxseg.reports.page import COLOURS, document, figure, navigation, section, table, text

NAME = "report.html"
MOST_CHOICES = 12  # values of a choice that an axis has room to name


def page(
    rows: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, str],
    objective: str,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    importance: Mapping[str, float],
    planned: int,
) -> str:
    """Return the page.

    Args:
      rows: the rows of trials.csv.
      kinds: name of each searched key -> log, float, int or choice.
      objective: name of the score that was maximised.
      curves: folder of a trial -> (epoch, validation score) of its epochs, where they were watched.
      importance: name -> fraction of 1; {} if it is unknown.
      planned: the number of trials asked for.
    """
    best = max((row for row in rows if row[objective] != ""), key=lambda row: row[objective], default=None)
    pruned = sum(row["state"] == "pruned" for row in rows)
    verdict = "No trial has ended with a score yet."
    if best:
        values = ", ".join(f"{name} {_short(best[name])}" for name in kinds)
        verdict = f"Best {objective} {best[objective]:.4f} in trial {best['trial']} (folder {best['folder']}): {values}."
    parts = {
        "history": (
            "History",
            figure(
                _history(rows, objective),
                f"A dot for each trial that was trained to its end; the line is the best {objective} so far.",
            ),
        ),
        "keys": ("Values", _by_key(rows, kinds, objective)),
        "importance": ("Which keys matter", _importance(importance)),
        "epochs": ("Epochs", figure(_epochs(rows, curves, objective), "A line for each trial; dashed ones were ended early.")),
        "trials": ("Trials", table(rows, "trials", tall=len(rows) > 20)),
    }
    parts = {name: part for name, part in parts.items() if part[1]}
    title = f"Search over {', '.join(kinds)}"
    said = f"{len(rows)} of {planned} trials have ended{f', {pruned} of them early' if pruned else ''}."
    note = "These are scores of the validation split, on which the search chooses: they are not test results."
    words = f'<div class="verdict"><p>{text(verdict)}</p></div><p>{text(said)} {text(note)}</p>'
    head = f"<header><h1>{text(title)}</h1>{words}</header>"
    body = [head, navigation({name: words for name, (words, _) in parts.items()}), "<main>"]
    body += [section(name, words, inside) for name, (words, inside) in parts.items()]
    return document(title, [*body, "</main>"])


def _history(rows: Sequence[Mapping[str, Any]], objective: str) -> str:
    known = [row for row in rows if row[objective] != ""]
    if not known:
        return ""
    numbers = [row["trial"] for row in rows]
    x = axis_of(numbers, "trial", low=min(numbers), high=max(*numbers, min(numbers) + 1), whole=True)
    chart = Chart(f"{objective} by trial", x, axis_of([row[objective] for row in known], objective))
    best, line = -math.inf, []
    for row in known:
        best = max(best, row[objective])
        line.append((row["trial"], best))
        chart.dot(row["trial"], row[objective], COLOURS[0], f"trial {row['trial']}: {row[objective]:.4f}")
    chart.line(line, COLOURS[1], "best so far")
    return chart.svg()


def _by_key(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], objective: str) -> str:
    """The score of each trial over the value that each key had."""
    known = [row for row in rows if row[objective] != ""]
    drawn = []
    for i, (name, kind) in enumerate(kinds.items()):
        if not known:
            break
        choices = list(dict.fromkeys(row[name] for row in rows)) if kind == "choice" else []
        if len(choices) > MOST_CHOICES:
            continue
        place = lambda row, choices=choices, name=name: choices.index(row[name]) + 1 if choices else row[name]
        words = f"{name}: {', '.join(f'{k} {value}' for k, value in enumerate(choices, 1))}" if choices else name
        values = [place(row) for row in known]
        ends = {"low": 0.5, "high": len(choices) + 0.5} if choices else {}
        x = axis_of(values, words, log=kind == "log", whole=kind in ("int", "choice"), **ends)
        chart = Chart(f"{objective} by {name}", x, axis_of([row[objective] for row in known], objective))
        for row in known:
            chart.dot(
                place(row),
                row[objective],
                COLOURS[i % len(COLOURS)],
                f"trial {row['trial']}: {_short(row[name])}, {row[objective]:.4f}",
            )
        drawn.append(figure(chart.svg(), ""))
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _importance(importance: Mapping[str, float]) -> str:
    if not importance:
        return ""
    left, width, row = 250, 640, 26
    marks = []
    for i, (name, share) in enumerate(sorted(importance.items(), key=lambda item: -item[1])):
        y, long = row * i + 20, (width - left - 70) * share
        shown = text(name if len(name) <= 34 else f"…{name[-33:]}")
        marks.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{shown}</text>')
        bar = f'<rect x="{left}" y="{y - 8}" width="{long:.1f}" height="16" fill="{COLOURS[0]}">'
        marks.append(f"{bar}<title>{text(name)}: {share:.3f}</title></rect>")
        marks.append(f'<text x="{left + long + 6:.1f}" y="{y + 4}">{share:.2f}</text>')
    drawing = svg(width, row * len(importance) + 16, "importance of the keys", marks)
    return figure(
        drawing, "Share of each key in what sets the best tenth of the trials apart (PED-ANOVA); rough with few trials."
    )


def _epochs(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[tuple[int, float]]], objective: str) -> str:
    known = {row["folder"]: row for row in rows if curves.get(row["folder"])}
    points = [point for folder in known for point in curves[folder]]
    if not points:
        return ""
    epochs = [epoch for epoch, _ in points]
    x = axis_of(epochs, "epoch", low=min(epochs), high=max(*epochs, min(epochs) + 1), whole=True)
    chart = Chart(
        f"{objective} by epoch",
        x,
        axis_of([value for _, value in points], f"validation {objective.removeprefix('val_')}", low=0.0),
    )
    for i, (folder, row) in enumerate(known.items()):
        chart.line(curves[folder], COLOURS[i % len(COLOURS)], f"trial {row['trial']}", dashed=row["state"] == "pruned")
    return chart.svg()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
