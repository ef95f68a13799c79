"""interactive_3d_analysis.html: a 3-D scatter plot, which can be rotated, of parameters, MACs and test Dice.

One file that opens offline, on a plain canvas: no library, no WebGL.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.reports.page import COLOURS, document, embedded, is_number, legend, table, text

AXES = (("total_params", "parameters", True), ("flops", "multiply-accumulates", True), ("test_dice", "test Dice", False))


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
      results: rows of integrated_experiment_results.csv; those without one of the three numbers are left out.
    """
    known = [row for row in results if all(is_number(row[key]) for key, _, _ in AXES)]
    models = list(dict.fromkeys(row["model_name"] for row in known))
    points = [
        {"name": str(row["run"]), "at": [float(row[key]) for key, _, _ in AXES], "colour": models.index(row["model_name"])}
        for row in known
    ]
    title = "Parameters, multiply-accumulates and test Dice"
    if not points:
        return document(title, [f"<h1>{title}</h1><main><p>No run is finished yet.</p></main>"])
    data = {"points": points, "axes": [{"name": name, "log": log} for _, name, log in AXES], "colours": COLOURS}
    rows = [{"run": row["run"], **{name: row[key] for key, name, _ in AXES}} for row in known]
    label = text(f"{len(points)} runs by parameters, multiply-accumulates and test Dice; the table below has the same numbers")
    return document(
        title,
        [
            f"<header><h1>{title}</h1></header><main>",
            f'<canvas id="scatter" class="cloud" tabindex="0" role="img" aria-label="{label}"></canvas>',
            '<p class="said"><output id="said"></output></p>',
            legend(models),
            '<p class="soft">Drag, or <kbd>←</kbd><kbd>→</kbd><kbd>↑</kbd><kbd>↓</kbd>, turns; <kbd>+</kbd><kbd>-</kbd> zoom; '
            "<kbd>N</kbd> names one run after the other. The first two axes are logarithmic.</p>",
            table(rows, "runs"),
            "</main>",
            embedded("points", data),
        ],
        scripts=("scatter.js",),
    )
