"""report.html of a comparison: one file that works offline and loads nothing, not even a library.

Its Content-Security-Policy allows only inline style and script. Its figures are those of the CSV files; charts are SVG.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jaxseg

# Okabe and Ito's palette, which colour-blind readers tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
WIDTH, ROW, LEFT = 640, 34, 190  # of the chart of scores, pixels: whole, of a model, of the names
PLOT = (640, 260, 52, 28)  # of the learning curves: width, height, left margin, lower margin

_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid #0072b2; padding-left: .8rem; }
.scroll { overflow-x: auto; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content: " \\2193"; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const text = row.cells[column].textContent;
      return text === "" ? NaN : isNaN(text) ? text : Number(text);
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y))) * (down ? -1 : 1);
    };
    [...table.tBodies[0].rows].sort(order).forEach((row) => table.tBodies[0].append(row));
  }));
}
"""


def of_comparison(
    facts: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    cases: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
) -> str:
    """Return the HTML of the page.

    Args:
      facts: the content of comparison.json.
      summary, results, cases, epochs: rows of the tables in `tables`.
    """
    said = facts["sentences"]
    failed = "".join(f"<li>{_text(name)}: {_text(reason)}</li>" for name, reason in facts["failed"].items())
    parts = [
        f"<h1>Comparison of {len(summary)} models</h1>",
        f'<p class="verdict">{_text(said[0] if said else "No two models have finished runs yet.")}</p>',
        "".join(f"<p>{_text(line)}</p>" for line in said[1:]),
        f"<p>{len(facts['finished'])} of {len(facts['runs'])} runs are finished.</p>",
        f"<h2>Runs that failed</h2><ul>{failed}</ul>" if failed else "",
        "<h2>Test Dice</h2><p>One dot per run; the bar shows the mean plus and minus one standard deviation over the runs.</p>",
        scores_chart(summary, results),
        "<h2>Models</h2>",
        table(summary, "models"),
        "<h2>Learning curves</h2><p>Validation Dice by epoch, one line per run.</p>",
        curves_chart(epochs),
        "<h2>Runs</h2>",
        table(results, "runs"),
        "<h2>Test cases</h2><p>Dice of each case, mean over the random seeds of a model. Click a column name to sort.</p>",
        table(cases, "cases"),
        f"<p>Made by jaxseg {jaxseg.__version__}. Not a medical device.</p>",
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Comparison of {len(summary)} models</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + f"\n<script>{_SCRIPT}</script></body></html>\n"
    )


def table(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Return rows as an HTML table that can be sorted by any column; columns are the keys in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f'<th scope="col"><button type="button">{_text(column)}</button></th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(_shown(row.get(c, '')))}</td>" for c in columns) + "</tr>" for row in rows)
    whole = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="sortable" aria-label="{_text(caption)}">{whole}</table></div>'


def scores_chart(summary: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> str:
    """Draw the test Dice of every model: a dot for each run, mean and standard deviation."""
    values = [float(row["test_dice"]) for row in results if _is_number(row["test_dice"])]
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
        marks.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{_text(_shortened(row["model_name"]))}</text>')
        if row["test_dice_mean"] == "":
            continue
        mean, std = row["test_dice_mean"], row["test_dice_std"] or 0.0
        marks.append(
            f'<line x1="{x(max(mean - std, low)):.1f}" x2="{x(min(mean + std, high)):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="3"/><line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{colour}" '
            f'stroke-width="3"><title>{_text(row["model_name"])}: {mean:.4f}</title></line>'
        )
        for run in results:
            if run["model_name"] == row["model_name"] and _is_number(run["test_dice"]):
                marks.append(
                    f'<circle cx="{x(float(run["test_dice"])):.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity=".6">'
                    f"<title>{_text(run['run'])}: {float(run['test_dice']):.4f}</title></circle>"
                )
    marks.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{height - 3}" text-anchor="middle">test Dice</text>')
    return _svg(WIDTH, height, "Test Dice of every run by model", marks)


def curves_chart(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Draw the validation Dice by epoch, one line per run, in the colour of its model."""
    known = [row for row in epochs if _is_number(row["val_dice"])]
    if not known:
        return ""
    width, height, left, lower = PLOT
    last = max(int(row["epoch"]) for row in known)
    top = max(0.1, math.ceil(10 * max(float(row["val_dice"]) for row in known)) / 10)
    x = lambda epoch: left + (epoch - 1) / max(last - 1, 1) * (width - left - 12)
    y = lambda dice: 10 + (1 - dice / top) * (height - lower - 22)
    models = list(dict.fromkeys(row["model_name"] for row in known))
    marks = [
        f'<line x1="{left}" x2="{width - 12}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<text x="{left - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.3g}</text>'
        for t in (top * i / 4 for i in range(5))
    ]
    for epoch in sorted({1, (1 + last) // 2, last}):
        marks.append(f'<text x="{x(epoch):.1f}" y="{height - 16}" text-anchor="middle">{epoch}</text>')
    marks.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 2}" text-anchor="middle">epoch</text>')
    for run in dict.fromkeys((row["model_name"], row["seed"], row["fold"]) for row in known):
        mine = [row for row in known if (row["model_name"], row["seed"], row["fold"]) == run]
        points = " ".join(f"{x(int(row['epoch'])):.1f},{y(float(row['val_dice'])):.1f}" for row in mine)
        name = f"{run[0]}, seed {run[1]}" + (f", fold {run[2]}" if run[2] != "" else "")
        colour = COLOURS[models.index(run[0]) % len(COLOURS)]
        marks.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5">'
            f"<title>{_text(name)}</title></polyline>"
        )
    legend = "".join(
        f'<span style="color:{COLOURS[i % len(COLOURS)]}">&#9632;</span> {_text(model)} &nbsp; ' for i, model in enumerate(models)
    )
    return f"{_svg(width, height, 'Validation Dice by epoch', marks)}<p>{legend}</p>"


def _svg(width: int, height: int, label: str, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _is_number(value: Any) -> bool:
    return value != "" and not math.isnan(float(value))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.0f}"
    return str(value)


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
