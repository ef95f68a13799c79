"""report.html of a run: its configuration, its scores, and pictures of its errors. Only the run folder is read.

Scores and pictures come from the folder of an evaluation (`evaluate.kept`); without them the page has the run's curves and
tables, and names the command that adds the pictures.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.config import flatten
from jaxseg.metrics.mistakes import CAUSES
from jaxseg.reports import asked, figures, page
from jaxseg.reports.cases import pictures as kept_pictures
from jaxseg.reports.cases.together import Test, before_after
from jaxseg.reports.names import without_paths
from jaxseg.reports.reading import Read, dice_in_words, read_run
from jaxseg.types import ConfigError
from jaxseg.utils import files

MOST_ROWS = 2000  # of the table of cases; all are in cases.csv
COLUMNS = [cause.replace(" ", "_") for cause in CAUSES]


def write(
    run: Path,
    output: Path,
    *,
    name: str = "",
    names: str = "plain",
    pictures: bool = True,
    megabytes: float = 25.0,
    before: str = "",
    test: Test | None = None,
) -> str:
    """Write the page of a run, and return a line about it.

    Args:
      run: the run folder.
      output: the file to write.
      name: name of an evaluation in RUN/evaluations, with or without "@step"; "": that of the best checkpoint on the test split.
      names, pictures, megabytes, before: config.report; `before` needs `test`.
      test: returns the sentence about the difference of two runs.
    Raises:
      ConfigError: there is no such evaluation, or the output is not an .html file.
    """
    if output.suffix != ".html":
        raise ConfigError(f"--output={output}: the page is one file; give it a name that ends in .html")
    read = read_run(run, name, names)
    if before and test is not None:
        old, runs = read_run(Path(before), name, names), (Path(before).name, run.name)
        return _write_change(old, read, runs, output, test, megabytes=megabytes, with_pictures=pictures)
    content, number, kept_cases = page_of(read, run, with_pictures=pictures, megabytes=megabytes)
    files.make_folder(output.parent, f"--output={output}")
    files.write_atomic(output, content)
    return f"wrote {output} ({len(content.encode()) / 1e6:.1f} MB, {number} of {kept_cases} kept cases with pictures)"


def _write_change(
    before: Read, after: Read, names: tuple[str, str], output: Path, test: Test, *, megabytes: float, with_pictures: bool
) -> str:
    """Write the page of two runs, before and after a change."""
    for read, run in zip((before, after), names):
        if not read.found:
            raise ConfigError(f"{run} has no evaluation of its test split; make one: jaxseg evaluate {run}")
    names = names if names[0] != names[1] else (f"{names[0]} (before)", f"{names[1]} (after)")
    inside = before_after(before, after, names, test, megabytes=megabytes, with_pictures=with_pictures)
    changed = _changes(before, after)
    title = f"{names[1]} beside {names[0]}"
    parts = {"change": ("Case by case", inside), "asked": ("What differs", changed)}
    head = f"<header><h1>{page.text(title)}</h1>{_synthetic(after)}</header>"
    body = [head, page.navigation({key: words for key, (words, _) in parts.items()}), "<main>"]
    body += [page.section(key, words, html) for key, (words, html) in parts.items()]
    content = page.document(title, [*body, "</main>"], scripts=kept_pictures.scripts(inside))
    files.make_folder(output.parent, f"--output={output}")
    files.write_atomic(output, content)
    return f"wrote {output} ({len(content.encode()) / 1e6:.1f} MB)"


def _changes(before: Read, after: Read) -> str:
    """Return the keys in which two configurations differ."""
    old, new = (flatten(read.record["config"]) for read in (before, after))
    value = lambda tree, key: json.dumps(without_paths(tree.get(key), hashed=after.show is not str), ensure_ascii=False)
    rows = [
        {"key": key, "before": value(old, key), "after": value(new, key)}
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key not in ("name", "variant")
    ]
    return page.table(rows, "what differs") if rows else "<p>The configurations are the same.</p>"


def page_of(read: Read, run: Path, *, with_pictures: bool, megabytes: float) -> tuple[str, int, int]:
    """Return (the page, the number of cases with pictures in it, the number of kept cases)."""
    name = read.record["config"]["name"] or run.name
    index, classes = kept_pictures.read(read.folder) if read.folder else ([], ())
    cases = [] if not with_pictures else [_shown(read, facts) for facts in index]
    viewer, number = kept_pictures.viewer(cases, classes, megabytes=0.8 * megabytes) if cases else ("", 0)
    parts = {
        "scores": ("Scores", _scores(read, run)),
        "cases-viewer": ("Pictures", _pictures(read, viewer, number, len(index), with_pictures)),
        "gallery": ("Worst cases", _gallery(read, cases, number)),
        "charts": ("Charts", figures.of_scores(read) + figures.curves(read)),
        "calibration": ("Calibration", figures.calibration(read)),
        "confusion": ("Confusion", figures.confusion(read)),
        "table": ("All cases", _cases(read)),
        "asked": ("What was asked", asked.of_run(read)),
    }
    parts = {key: (title, inside) for key, (title, inside) in parts.items() if inside}
    title = f"{name}: {read.record['model']['name']} on {read.record['dataset']}"
    said = f'<div class="verdict"><p>{page.text(verdict(read))}</p></div>{_synthetic(read)}'
    head = f"<header><h1>{page.text(title)}</h1>{said}</header>"
    body = [head, page.navigation({key: title for key, (title, _) in parts.items()}), "<main>"]
    body += [page.section(key, title, inside) for key, (title, inside) in parts.items()]
    return page.document(title, [*body, "</main>"], scripts=kept_pictures.scripts(viewer)), number, len(index)


def verdict(read: Read) -> str:
    """Return the result in one sentence."""
    if not read.found:
        known = [row for row in read.epochs if page.is_number(row.get("val_dice", ""))]
        if not known:
            return "Nothing has been scored yet."
        best = max(known, key=lambda row: row["val_dice"])
        of_epoch = f"{best['val_dice']:.4f}, of epoch {best['epoch']}"
        return f"Nothing has been scored on a test split; the best validation Dice is {of_epoch}."
    what = ", ".join(read.found["headline"])
    low, high = read.interval()
    patients = len({row["patient"] for row in read.cases})
    said = f"Mean Dice of {what}: {_number(read.found['mean_dice']):.4f}"
    if not math.isnan(low) and patients > 1:
        said += f" (95 % interval {low:.4f} to {high:.4f} over {patients} patients)"
    split = f"{read.found['split']} " if read.found.get("split") else ""
    said += f" on {read.found['examples']} {split}{'volumes' if read.unit == 'ml' else 'pictures'}"
    wrong = [row for row in read.mistakes if row["wrong"]]
    if not wrong:
        return said + "."
    worst = min(wrong, key=lambda row: (row["dice"] if page.is_number(row["dice"]) else 2.0, -row["wrong"]))
    total = {cause: sum(row[cause] for row in wrong) for cause in COLUMNS}
    main = max(total, key=total.__getitem__)
    voxels = "voxels" if read.unit == "ml" else "pixels"
    share = _percent(total[main], sum(total.values()))
    bad = f"{_title(read, worst)} ({dice_in_words(worst)}: {worst['reasons']})"
    return f"{said}; the worst is {bad}, and {share} of all wrong {voxels} are of the kind {main.replace('_', ' ')}."


def _scores(read: Read, run: Path) -> str:
    if not read.found:
        return (
            "<p>No evaluation of the test split is there. This command makes one, with pictures: "
            f"<code>jaxseg evaluate {page.text(run.name)}</code>, in the folder of the run.</p>"
        )
    found, m = read.found, read.record["model"]
    low, high = read.interval()
    tiles = [
        (f"{_number(found['mean_dice']):.4f}", f"mean Dice of {', '.join(found['headline'])}"),
        (f"{_number(found['pooled_dice']):.4f}", "Dice of all voxels together, mean over classes"),
        (
            str(found["examples"]),
            f"{'volumes' if read.unit == 'ml' else 'pictures'} of {len({r['patient'] for r in read.cases})} patients",
        ),
        (f"{m['parameters'] / 1e6:.2f} M", f"parameters of {m['name']}"),
        (f"{found['macs'] / 1e9:.2f} G", "multiply-accumulates of one pass"),
    ]
    if not math.isnan(low):
        tiles.insert(1, (f"{low:.3f}–{high:.3f}", "95 % interval of the mean Dice, bootstrap over patients"))
    rows = []
    for name in list(dict.fromkeys(row["class"] for row in read.cases)) or list(found["scores"]):
        scores = found["scores"][name]
        low, high = read.interval([name])
        row: dict[str, Any] = {
            "class": name,
            "Dice": scores["dice"]["mean"],
            "± std": scores["dice"]["std"],
            "95 % low": low,
            "95 % high": high,
        }
        row |= {"median": scores["dice"]["median"]}
        for key, title in figures.MEASURES.items():
            if key in scores:
                row[title] = scores[key]["mean"]
        row |= {
            "n": scores["dice"]["n"],
            "missed": scores["missed"],
            "false alarms": scores["false_alarms"],
            "empty": scores["empty"],
        }
        rows.append(row)
    empty = f"An empty prediction of an empty mask scores {found['empty_masks']['both_empty']}."
    said = f"<p>On {page.text(found['grid'])}. {page.text(empty)}</p>"
    if found.get("prepared"):
        grid, dice = found["prepared"]["grid"], _number(found["prepared"]["mean_dice"])
        said += f'<p class="soft">On {page.text(grid)} the mean Dice is {dice:.4f}.</p>'
    return (
        page.tiles(tiles) + said + page.table([{k: ("" if _missing(v) else v) for k, v in row.items()} for row in rows], "scores")
    )


def _pictures(read: Read, viewer: str, number: int, there: int, wanted: bool) -> str:
    if not read.found:
        return ""
    if not wanted:
        return "<p>Pictures were left out (<code>config.report.pictures=False</code>).</p>"
    if not viewer:
        return (
            "<p>This evaluation kept no pictures. These commands add them: "
            "<code>jaxseg evaluate RUN --config.eval.keep=10</code>, then <code>jaxseg report RUN</code>.</p>"
        )
    channel = (read.record["recipe"]["modalities"] or [""])[-1]
    shown = f"The image is its channel {channel}. " if channel else ""
    left = "" if number == there else f"{number} of {there} kept cases fit; --config.report.megabytes=100 holds more. "
    return f'<p class="soft">{page.text(shown + left)}Worst cases first, then those around the median.</p>{viewer}'


def _gallery(read: Read, cases: Sequence[kept_pictures.Shown], number: int) -> str:
    wrong = [row for row in read.mistakes if row["wrong"]]
    if not wrong:
        return ""
    total = sum(row["wrong"] for row in wrong)
    voxels = "voxels" if read.unit == "ml" else "pixels"
    rows: list[dict[str, Any]] = [
        {
            "reason": cause.replace("_", " "),
            "main reason in": sum(row["reason"] == cause.replace("_", " ") for row in wrong),
            "plays a part in": sum(cause.replace("_", " ") in row["reasons"].split(", ") for row in wrong),
            f"wrong {voxels}": sum(row[cause] for row in wrong),
            "share, %": f"{100 * sum(row[cause] for row in wrong) / total:.1f}",
        }
        for cause in COLUMNS
    ]
    border = sum("touching the border" in row["reasons"] for row in wrong)
    rows.append(
        {
            "reason": "touching the border",
            "main reason in": "",
            "plays a part in": border,
            f"wrong {voxels}": sum(r["at_border"] for r in wrong),
        }
    )
    said = (
        f"<p>Every wrong {voxels[:-1]} of {len(read.mistakes)} examples has one cause: a structure that was missed, a false "
        "alarm where nothing is, a fragment beside a structure that was found, the boundary of what was found, or the wrong "
        "class.</p>"
    )
    return said + page.table(rows, "reasons") + (kept_pictures.cards(cases, number) if cases else "")


def _cases(read: Read) -> str:
    if not read.cases:
        return ""
    reasons = {(row["case"], row.get("slice", "")): row for row in read.mistakes}
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in read.cases:
        groups.setdefault((row["case"], row.get("slice", "")), []).append(row)
    rows = []
    for key, group in groups.items():
        by_name = {row["class"]: row for row in group}
        named = [by_name[name] for name in read.found["headline"] if name in by_name]
        dice = [row["dice"] for row in named if page.is_number(row["dice"])]
        row = {"case": read.show(key[0])}
        if group[0]["patient"] != key[0]:
            row["patient"] = read.show(group[0]["patient"])
        if key[1] != "":
            row["slice"] = key[1]
        row["Dice"] = float(np.mean(dice)) if dice else ""
        if len(named) > 1:
            row |= {f"Dice {one['class']}": one["dice"] if page.is_number(one["dice"]) else "" for one in named}
        for what in ("truth", "predicted"):
            row[f"{what}, {read.unit}"] = (
                round(max(read.size(one, what) for one in named), 3)
                if read.unit == "ml"
                else int(sum(read.size(one, what) for one in named))
            )
        if key in reasons:
            row |= {"wrong": reasons[key]["wrong"], "reasons": reasons[key]["reasons"]}
        rows.append(row)
    rows.sort(key=lambda row: row["Dice"] if row["Dice"] != "" else 2.0)
    left = f"<p>The {MOST_ROWS} worst of {len(rows)}; all are in cases.csv.</p>" if len(rows) > MOST_ROWS else ""
    left += '<p class="soft">Worst first; a click on a column\'s name sorts.</p>'
    return left + page.table(rows[:MOST_ROWS], "cases", tall=len(rows) > 20)


def _shown(read: Read, facts: dict[str, Any]) -> kept_pictures.Shown:
    return kept_pictures.Shown(facts, _title(read, facts), description_of(facts), kept_pictures.arrays_of(read.folder, facts))


def description_of(facts: dict[str, Any]) -> str:
    """Describe an example: its Dice, and the causes of its errors."""
    if not facts["wrong"]:
        return f"{dice_in_words(facts)}; nothing is wrong"
    shares = sorted(((facts[cause], cause.replace("_", " ")) for cause in COLUMNS), reverse=True)
    causes = ", ".join(f"{name} {_percent(n, facts['wrong'])}" for n, name in shares if n)
    border = "; touching the border" if "touching the border" in facts["reasons"] else ""
    unit = "pixels" if len(facts.get("size", ())) == 2 else "voxels"
    return f"{dice_in_words(facts)}; {facts['wrong']:,} wrong {unit}: {causes}{border}"


def _title(read: Read, facts: dict[str, Any]) -> str:
    there = facts.get("slice", "")
    several = "slice" in facts and any(row.get("slice") for row in read.mistakes)
    return read.show(facts["case"]) + (f", slice {there}" if several else "")


def _synthetic(read: Read) -> str:
    said = "The data are SYNTHETIC: these figures say nothing about patients."
    return f'<p class="synthetic">{said}</p>' if read.record["synthetic"] else ""


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 1 or not part else "under 1 %"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)
