"""report.html of a comparison. Its figures equal those of the CSV files, to the last digit shown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.reports.cases.pictures import scripts
from jaxseg.reports.charts import Chart, axis_of, svg
from jaxseg.reports.page import COLOURS, document, figure, is_number, legend, navigation, section, table, text

WIDTH, ROW, LEFT = 640, 34, 190  # of the chart of scores, pixels: whole, of a model, of the names
NOT_SHOWN = {"dataset", "model_name", "grid", "run", "macs_printed", "mega_bytes", "batch", "device", "dtype"}  # of the runs


def of_comparison(
    facts: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    cases: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
    beside: str = "",
    asked: str = "",
) -> str:
    """Return the page.

    Args:
      facts: the content of comparison.json.
      summary, results, cases, epochs: rows of the tables in `tables`.
      beside: the cases with the predictions of each model, from `together.side_by_side`.
      asked: what was asked, from `asked.of_models`.
    """
    said = facts["sentences"]
    failed = "".join(f"<li>{text(name)}: {text(reason)}</li>" for name, reason in facts["failed"].items())
    first, *others = said or ["No two models have finished runs yet."]
    parts = {
        "failed": ("Runs that failed", f"<ul>{failed}</ul>" if failed else ""),
        "dice": (
            "Test Dice",
            "<p>A dot for each run; the bar spans mean plus and minus one standard deviation over the runs.</p>"
            + scores_chart(summary, results),
        ),
        "models": ("Models", table(summary, "models")),
        "modalities": ("Modalities", _modalities(facts.get("modalities", ()))),
        "published": ("Published figures", _published(facts.get("published", ()))),
        "reasons": ("What goes wrong", _reasons(facts.get("mistakes", ()))),
        "curves": ("Learning curves", curves_chart(epochs)),
        "beside": ("Cases side by side", beside),
        "runs": ("Runs", _runs(results)),
        "cases": (
            "Test cases",
            "<p>Dice of each case, mean over the seeds of a model. Click a column's name to sort.</p>"
            + table(cases, "cases", tall=len(cases) > 20),
        ),
        "asked": ("What was asked", asked),
    }
    parts = {name: part for name, part in parts.items() if part[1]}
    title = f"Comparison of {len(summary)} models"
    head = (
        f'<header><h1>{title}</h1><div class="verdict"><p>{text(first)}</p></div>'
        + "".join(f"<p>{text(line)}</p>" for line in others)
        + f"<p>{len(facts['finished'])} of {len(facts['runs'])} runs are finished.</p></header>"
    )
    body = [head, navigation({name: words for name, (words, _) in parts.items()}), "<main>"]
    body += [section(name, words, inside) for name, (words, inside) in parts.items()]
    return document(title, [*body, "</main>"], scripts=scripts(beside))


def _modalities(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the modality factors of attention models."""
    if not rows:
        return ""
    said = "Mean factor by which a network's attention multiplies each modality, on the test cases: 0 to 1, each by itself."
    return f"<p>{said}</p>" + table(rows, "contribution of the modalities")


def _runs(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the runs: the columns of integrated_experiment_results.csv that hold figures."""
    said = (
        "All columns are in integrated_experiment_results.csv. A page of one run, with its worst cases, its calibration and the "
        "sizes of structures: <code>jaxseg report RUN</code>."
    )
    rows = [{"run": row.get("run", ""), **{k: v for k, v in row.items() if k not in NOT_SHOWN}} for row in results]
    return f'<p class="soft">{said}</p>{table(rows, "runs")}' if rows else ""


def _reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the causes of wrong voxels by model."""
    if not rows:
        return ""
    said = (
        "The main cause of the wrong voxels (or pixels) of each test example, counted over all runs of a model: a structure that "
        "was missed, a false alarm where nothing is, a fragment beside a structure that was found, the boundary of a found one, "
        "or the wrong class."
    )
    return f"<p>{said}</p>" + table(rows, "causes of mistakes")


def _published(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of published tables, which are shown beside ours but not compared."""
    if not rows:
        return ""
    said = "From the projects' own tables: other splits and machines, mostly one run each; not compared with the runs above."
    return f'<p class="soft">{said}</p>' + table(rows, "published figures")


def scores_chart(summary: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> str:
    """Return the chart of every model's test Dice: a dot for each run, mean and standard deviation."""
    values = [float(row["test_dice"]) for row in results if is_number(row["test_dice"])]
    if not values:
        return ""
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values) + 1e-9) / 10
    high = high if high > low else low + 0.1
    x = lambda v: LEFT + (v - low) / (high - low) * (WIDTH - LEFT - 20)
    height = ROW * len(summary) + 44
    ticks = [low + i * (high - low) / 5 for i in range(6)]
    marks = [
        f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="6" y2="{height - 36}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<text x="{x(t):.1f}" y="{height - 20}" text-anchor="middle">{t:.2f}</text>'
        for t in ticks
    ]
    for i, row in enumerate(summary):
        y, colour = ROW * i + 22, COLOURS[i % len(COLOURS)]
        marks.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{text(_shortened(row["model_name"]))}</text>')
        if row["test_dice_mean"] == "":
            continue
        mean, std = row["test_dice_mean"], row["test_dice_std"] or 0.0
        marks.append(
            f'<line x1="{x(max(mean - std, low)):.1f}" x2="{x(min(mean + std, high)):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="3"/><line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{colour}" '
            f'stroke-width="3"><title>{text(row["model_name"])}: {mean:.4f}</title></line>'
        )
        for run in results:
            if run["model_name"] == row["model_name"] and is_number(run["test_dice"]):
                marks.append(
                    f'<circle cx="{x(float(run["test_dice"])):.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity=".6">'
                    f"<title>{text(run['run'])}: {float(run['test_dice']):.4f}</title></circle>"
                )
    marks.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{height - 3}" text-anchor="middle">test Dice</text>')
    return svg(WIDTH, height, "Test Dice of every run by model", marks)


def curves_chart(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Return the chart of validation Dice by epoch: a line for each run, in its model's colour."""
    known = [row for row in epochs if is_number(row["val_dice"])]
    if not known:
        return ""
    numbers = [int(row["epoch"]) for row in known]
    y = axis_of([float(row["val_dice"]) for row in known], "validation Dice", low=0.0)
    chart = Chart(
        "Validation Dice by epoch",
        axis_of(numbers, "epoch", low=min(numbers), high=max(*numbers, min(numbers) + 1), whole=True),
        y,
    )
    models = list(dict.fromkeys(row["model_name"] for row in known))
    for run in dict.fromkeys((row["model_name"], row["seed"], row["fold"]) for row in known):
        mine = [row for row in known if (row["model_name"], row["seed"], row["fold"]) == run]
        name = f"{run[0]}, seed {run[1]}" + (f", fold {run[2]}" if run[2] != "" else "")
        colour = COLOURS[models.index(run[0]) % len(COLOURS)]
        chart.line([(int(row["epoch"]), float(row["val_dice"])) for row in mine], colour, name)
    return figure(chart.svg(), "Validation Dice by epoch, a line for each run.", legend(models))


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
