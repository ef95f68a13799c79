"""The tables of a comparison, computed from the folders of its runs.

integrated_experiment_results.csv   one row per run: the BraTS 3-D project's columns in its order, then further columns
all_epochs_results.csv              one row per epoch of each run
stage_wise_pam_results.csv          memory by stage of each run (`stages`), where it was measured and XLA gives its plan
model_comparison.csv                one row per model: mean and standard deviation over its runs, rounded to 4 digits
case_comparison.csv                 one row per test case: the Dice of each model, mean over its random seeds
interactive_3d_analysis.html        parameters, multiply-accumulates and test Dice of every run, as a rotatable 3-D scatter
learning_curves.png, .svg, ...      figures for a paper (`reports.paper`)
comparison.json                     statistical tests of all pairs of models (`statistics`); the best model on validation
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import checkpoint
from jaxseg.evaluate import kept
from jaxseg.experiments import statistics
from jaxseg.experiments.plan import Planned
from jaxseg.metrics.mistakes import CAUSES
from jaxseg.metrics.summarize import write_csv
from jaxseg.reports import asked, comparison, paper, scatter
from jaxseg.reports.cases import together
from jaxseg.reports.cases.pictures import file_name
from jaxseg.reports.names import name_style, without_names
from jaxseg.reports.page import is_number
from jaxseg.reports.reading import evaluation_folder
from jaxseg.utils import guard
from jaxseg.utils.files import write_atomic, write_json

REGIONS = ("wt", "tc", "et")
RESULTS = (
    "dataset seed fold model_name total_params flops pam_train pam_inference inference_latency_ms "
    "test_dice test_wt test_tc test_et val_dice val_wt val_tc val_et precision recall best_epoch"
).split()
EPOCHS = "dataset seed fold model_name epoch train_loss train_dice val_loss val_dice val_wt val_tc val_et test_dice".split()
STAGES = "dataset seed fold model_name mode stage_name pam_mean pam_std num_runs".split()
AVERAGED = ("test_dice", "val_dice", "precision", "recall", "pam_train", "pam_inference", "inference_latency_ms")
COSTS = ("pam_train", "pam_inference", "inference_latency_ms", "latency_median_ms", "latency_p95_ms", "latency_p99_ms")
COSTS += ("macs_printed", "mega_bytes", "batch", "pam_train_of_batch", "pam_inference_of_batch", "device_peak", "device", "dtype")
MEASURES = "measures.json"  # of a run, where costs were measured


def headline(folder: Path) -> str:
    """Return the score of a finished run as a short text."""
    found = guard.read_json(folder / "evaluation.json")
    return f"mean Dice {_number(found['mean_dice']):.4f} on {found['grid']}"


def write(
    folder: Path,
    planned: Sequence[Planned],
    done: Sequence[Planned],
    failed: Mapping[str, str],
    *,
    published: Sequence[tuple[str, Sequence[tuple[str, float]]]] = (),
    last: bool = False,
) -> list[str]:
    """Write every table and the page of an experiment, and return a summary as text lines.

    Args:
      folder: the folder of the experiment.
      planned: all runs.
      done: the finished runs.
      failed: name of a run that failed -> reason.
      published: config.compare.published.
      last: whether all runs are finished; the figures, which take some seconds, are then drawn too if matplotlib is installed.
    """
    how = planned[0].config.report.names
    runs = [_read(run, how) for run in planned if run in done]
    results = [run["row"] for run in runs]
    write_csv(folder / "integrated_experiment_results.csv", results or [dict.fromkeys(RESULTS, "")])
    write_csv(folder / "all_epochs_results.csv", [row for run in runs for row in run["epochs"]] or [dict.fromkeys(EPOCHS, "")])
    write_csv(
        folder / "stage_wise_pam_results.csv", [row for run in runs for row in run["stages"]] or [dict.fromkeys(STAGES, "")]
    )
    models = list(dict.fromkeys(run.model for run in planned))
    summary = [_summary(model, [row for row in results if row["model_name"] == model]) for model in models]
    write_csv(folder / "model_comparison.csv", summary)
    scores, patients = _by_case(runs)
    cases = [
        {"case": case, "patient": patients[case], **{m: scores[m].get(case, "") for m in scores}} for case in sorted(patients)
    ]
    write_csv(folder / "case_comparison.csv", cases or [{"case": "", "patient": ""}])
    pairs = statistics.paired(scores, patients)
    best = best_by_validation(results)
    pairs.sort(key=lambda pair: best not in (pair.first, pair.second))
    said = [_sentence(pair, done, len(pairs)) for pair in pairs]
    verdict = statistics.verdict(best, pairs, scores, _costs(summary, results)) if best else ""
    if verdict and len(scores) > 1:
        said.insert(0, verdict)
    elif best:
        said.append(f"Best on the validation split, on which checkpoints were selected (this is not a test result): {best}.")
    if any(run["synthetic"] for run in runs):
        said.append("The data are SYNTHETIC: these scores say nothing about patients.")
    facts = {
        "runs": {run.name: str(run.folder.relative_to(folder)) for run in planned},
        "finished": [run.name for run in done],
        "failed": {name: without_names(how, reason) for name, reason in failed.items()},
        "best_by_validation": best,
        "models": _models(folder, planned, done, results),
        "modalities": _modalities(folder, models),
        "mistakes": _mistakes(done),
        "published": [{"row": name, **dict(figures)} for name, figures in published],
        "pairs": [pair._asdict() for pair in pairs],
        "sentences": said,
    }
    write_json(folder / "comparison.json", facts)
    epochs = [row for run in runs for row in run["epochs"]]
    write_atomic(folder / "report.html", _page(facts, summary, results, cases, epochs, done))
    write_atomic(folder / "interactive_3d_analysis.html", scatter.page(results))
    if last and paper.available():
        paper.write(folder, results, epochs, _evaluations(done))
    elif last:
        said.append("no figures: matplotlib is not installed; pip install 'matplotlib>=3.8', and run the same command again")
    return [*_lines(summary), *said, f"tables and report.html in {folder}"]


def _sentence(pair: statistics.Pair, done: Sequence[Planned], tests: int) -> str:
    """The sentence about two models, with the number of seeds and folds that both have."""
    both = [[run for run in done if run.model == model] for model in (pair.first, pair.second)]
    seeds = min(len({run.seed for run in mine}) for mine in both)
    folds = min(len({run.fold for run in mine} - {None}) for mine in both)
    return statistics.sentence(pair, measure="mean Dice", seeds=seeds, folds=folds, tests=tests)


def _costs(summary: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the costs of each model as a short text."""
    found = {}
    for row in summary:
        if row["total_params"] != "":
            latency = next((r["inference_latency_ms"] for r in results if r["model_name"] == row["model_name"]), "")
            found[row["model_name"]] = f"{row['total_params']:,} parameters and {row['flops'] / 1e9:.3f} GMAC a pass" + (
                f" in {latency:.1f} ms" if latency != "" else ""
            )
    return found


def _page(facts, summary, results, cases, epochs, done: Sequence[Planned]) -> str:
    """The page, with the cases that several models kept, with the predictions of each model's first run."""
    if not done:
        return comparison.of_comparison(facts, summary, results, cases, epochs)
    settings, folders = done[0].config.report, _evaluations(done)
    show = name_style(settings.names, checkpoint.read_record(done[0].folder)["data"]["digest"])
    beside = together.side_by_side(folders, show, megabytes=settings.megabytes) if settings.pictures else ""
    about = asked.of_models({run.model: run.folder for run in reversed(done)}, hashed=settings.names == "hash")
    return comparison.of_comparison(facts, summary, results, cases, epochs, beside, about)


def _evaluations(done: Sequence[Planned]) -> dict[str, Path]:
    """Return the evaluation folder of each model's first run."""
    folders: dict[str, Path] = {}
    for run in done:
        place = evaluation_folder(run.folder, "")
        if place is not None:
            folders.setdefault(run.model, place)
    return folders


def _mistakes(done: Sequence[Planned]) -> list[dict[str, Any]]:
    """Count for each model, over all its runs, the examples whose wrong voxels have each main cause."""
    rows: dict[str, dict[str, Any]] = {}
    for run in done:
        place = evaluation_folder(run.folder, "")
        if place is None or not (place / kept.TABLE).is_file():
            continue
        columns = ("runs", "examples", "without a mistake", *CAUSES, "touching the border")
        mine = rows.setdefault(run.model, {"model_name": run.model, **dict.fromkeys(columns, 0)})
        mine["runs"] += 1
        with open(place / kept.TABLE, newline="") as file:
            for row in csv.DictReader(file):
                mine["examples"] += 1
                mine[row["reason"] or "without a mistake"] += 1
                mine["touching the border"] += "touching the border" in row["reasons"]
    return list(rows.values())


def _modalities(folder: Path, models: Sequence[str]) -> list[dict[str, Any]]:
    """Mean contribution of each modality by model, from the summaries that `insight.attention` wrote."""
    rows = []
    for model in models:
        path = folder / f"modality_attention_summary_{file_name(model)}.csv"
        if path.is_file():
            with open(path, newline="") as file:
                rows.append({"model_name": model, **{r["modality"]: float(r["mean_contribution"]) for r in csv.DictReader(file)}})
    return rows


def _models(folder: Path, planned: Sequence[Planned], done: Sequence[Planned], results: Sequence[Mapping[str, Any]]) -> dict:
    """Return for each model its folder, the number of planned runs, the folders of finished runs, and their mean Dice."""
    found: dict[str, dict[str, Any]] = {}
    for run in planned:
        place = str(run.folder.parent.relative_to(folder))
        mine = found.setdefault(run.model, {"folder": place, "planned": 0, "runs": [], "val_dice": None})
        mine["planned"] += 1
        mine["runs"] += [str(run.folder.relative_to(folder))] * (run in done)
    for model, value in validation_means(results).items():
        found[model]["val_dice"] = value
    return found


def best_by_validation(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the model with the largest mean of val_dice over its runs; "" if no model has one."""
    means = validation_means(results)
    return max(means, key=means.__getitem__) if means else ""


def validation_means(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return {model: mean of val_dice over its runs} of the models that have one."""
    values: dict[str, list[float]] = {}
    for row in results:
        if is_number(row["val_dice"]):
            values.setdefault(row["model_name"], []).append(row["val_dice"])
    return {model: float(np.mean(mine)) for model, mine in values.items()}


def _read(run: Planned, names: str) -> dict[str, Any]:
    """Read the rows of a finished run; names of cases are shown as config.report.names states."""
    record, found = checkpoint.read_record(run.folder), guard.read_json(run.folder / "evaluation.json")
    with open(run.folder / "epochs.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    show = name_style(names, record["data"]["digest"])
    chosen = next((row for row in epochs if row["step"] == found["weights"]["step"]), {})
    names = found["headline"]
    fold = "" if run.fold is None else run.fold
    head = {"dataset": record["dataset"], "seed": run.seed, "fold": fold, "model_name": run.model}
    value = lambda name, measure: _number(found["scores"].get(name, {}).get(measure, {}).get("mean"))
    mean = lambda measure: _mean([value(name, measure) for name in names])
    measured = guard.read_json(run.folder / MEASURES) if (run.folder / MEASURES).is_file() else {}
    by_region = {key: name for name in names for key in REGIONS if name.lower() == key}
    row = dict.fromkeys(RESULTS, "") | head
    row |= {"total_params": found["params"], "flops": found["macs"], **{key: measured.get(key, "") for key in COSTS[:3]}}
    row |= {"test_dice": _number(found["mean_dice"]), "precision": mean("precision"), "recall": mean("recall")}
    row |= {f"test_{key}": value(name, "dice") for key, name in by_region.items()}
    row |= {key: _cell(chosen.get(key)) for key in ("val_dice", *(f"val_{key}" for key in REGIONS))}
    row |= {"best_epoch": _cell(chosen.get("epoch"))}
    if "cascade" in found:
        through = lambda name: _number(found["cascade"]["scores"].get(name, {}).get("dice", {}).get("mean"))
        row |= {"cascade_dice": _number(found["cascade"]["mean_dice"])}
        row |= {f"cascade_{key}": through(name) for key, name in by_region.items()}
    row |= {f"hd95_{key}": value(name, "hd95") for key, name in by_region.items() if "hd95" in found["scores"][name]}
    if any("hd95" in found["scores"][name] for name in names):
        row["hd95_mean"] = mean("hd95")
    row |= {f"test_dice_{name}": value(name, "dice") for name in found["scores"]}
    row |= {"pooled_dice": _number(found["pooled_dice"]), "grid": found["grid"], "run": run.name}
    row |= {key: measured.get(key, "") for key in COSTS[3:] if key in measured}
    history = [
        dict.fromkeys(EPOCHS, "")
        | head
        | {key: _cell(epoch.get(key)) for key in EPOCHS if key in epoch}
        | {"test_dice": row["test_dice"] if epoch is chosen else ""}
        for epoch in epochs
    ]
    by_stage = [  # XLA's plan is the same in every run of the program
        head | {"mode": mode, "stage_name": stage, "pam_mean": size, "pam_std": 0.0, "num_runs": 1}
        for mode, sizes in measured.get("stages", {}).items()
        for stage, size in sizes.items()
    ]
    return {
        "run": run,
        "row": row,
        "epochs": history,
        "stages": by_stage,
        "cases": _cases(run.folder, found, show),
        "synthetic": record["synthetic"],
    }


def _cases(folder: Path, found: Mapping[str, Any], show: Callable[[str], str]) -> dict[str, tuple[str, float]]:
    """Return {case: (patient, Dice)}: voxels of all slices of a case counted together, mean over regions (or classes)."""
    path = folder / "evaluations" / f"test@{found['weights']['step']}" / "cases.csv"
    empty = {"one": 1.0, "zero": 0.0, "nan": math.nan}[found["options"]["eval.empty"]]
    totals: dict[str, dict[str, np.ndarray]] = {}
    patients: dict[str, str] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["class"] in found["headline"]:
                row |= {key: show(row[key]) for key in ("case", "patient")}
                patients[row["case"]] = row["patient"]
                counts = np.array([int(row[key]) for key in ("tp", "fp", "fn")])
                names = totals.setdefault(row["case"], {})
                names[row["class"]] = names.get(row["class"], 0) + counts
    dice = lambda c: 2 * c[0] / (2 * c[0] + c[1] + c[2]) if c.sum() else empty
    return {case: (patients[case], _mean([dice(c) for c in names.values()])) for case, names in totals.items()}


def _by_case(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return (model -> case -> Dice, mean over the runs that tested the case; case -> patient)."""
    values: dict[str, dict[str, list[float]]] = {}
    patients: dict[str, str] = {}
    for run in runs:
        mine = values.setdefault(run["run"].model, {})
        for case, (patient, dice) in run["cases"].items():
            patients[case] = patient
            mine.setdefault(case, []).append(dice)
    return {model: {case: _mean(v) for case, v in mine.items()} for model, mine in values.items()}, patients


def _summary(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"model_name": model}
    for key in AVERAGED:
        values = [float(row[key]) for row in rows if row[key] != "" and not math.isnan(float(row[key]))]
        summary[f"{key}_mean"] = round(float(np.mean(values)), 4) if values else ""
        summary[f"{key}_std"] = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else ""
    summary |= {"runs": len(rows), "seeds": len({r["seed"] for r in rows}), "folds": len({r["fold"] for r in rows} - {""})}
    return summary | {"total_params": rows[0]["total_params"] if rows else "", "flops": rows[0]["flops"] if rows else ""}


def _lines(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    width = max(len(row["model_name"]) for row in summary)
    said = []
    for row in summary:
        spread = f" +- {row['test_dice_std']:.4f}" if row["test_dice_std"] != "" else ""
        if row["test_dice_mean"] != "":
            test = f"test Dice {row['test_dice_mean']:.4f}{spread}"
        else:
            test = "no test Dice" if row["runs"] else "no finished run"
        cost = f", {row['total_params']:,} parameters, {row['flops'] / 1e9:.3f} GMAC" if row["total_params"] != "" else ""
        made = [_count(row["runs"], "run"), _count(row["seeds"], "seed")] + [_count(row["folds"], "fold")] * bool(row["folds"])
        said.append(f"{row['model_name']:<{width}}  {test} ({', '.join(made)}){cost}")
    return said


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _cell(text: str | None) -> Any:
    """Convert a CSV cell to a number if it is one."""
    if text in (None, ""):
        return ""
    number = float(text)
    return int(number) if number.is_integer() and "." not in text and "e" not in text else number
