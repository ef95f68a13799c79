"""The model card (MODEL_CARD.md in runs and bundles): the model, its training data, its scores, and its limits.

Written from the run's record and the evaluation of its test split alone; figures are given with their counts and their grid.
After Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993), in the parts that a record can fill.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg import checkpoint
from jaxseg.utils import files

NAME = "MODEL_CARD.md"
EVALUATION = "evaluation.json"
UNSTATED = "not stated"
_MEASURES = ("dice", "iou", "precision", "recall", "hd95", "nsd")


def write(run: Path) -> Path:
    """Write the card of a run folder. It replaces an older card, whose licence line is kept if it was filled in.

    Raises:
      CheckpointError: the folder holds no run.
      StorageError: the card cannot be written.
    """
    run = checkpoint.run_folder(run)
    record, path = checkpoint.read_record(run), run / NAME
    files.write_atomic(path, text(record, {"licence": licence_of(path)}, evaluation_of(run)))
    return path


def licence_of(path: Path) -> str:
    """Return the text after "Licence of the weights:" in a card."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return UNSTATED
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Licence of the weights:")), UNSTATED)


def evaluation_of(run: Path) -> dict[str, Any] | None:
    """Return the evaluation of the test split; None if there is none that can be read."""
    try:
        found = json.loads((checkpoint.run_folder(run) / EVALUATION).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("scores"), dict) else None


def text(record: Mapping[str, Any], about: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """Return the text of a card.

    Args:
      record: the run's record.
      about: {"licence": ...}; for a bundle, with the entries of its model.json.
      evaluation: the content of evaluation.json; None if the test split was not scored.
    """
    model, recipe = record["model"], record["recipe"]
    imported = record.get("imported")
    lines = [f"# {record['config'].get('name') or model['name']}", ""]
    lines += ["**Not a medical device.** For research; not to be used for diagnosis or treatment.", ""]
    if record["synthetic"]:
        lines += ["**Trained on synthetic data:** what it finds in patients means nothing.", ""]
    lines += [
        f"Licence of the weights: {about['licence']}",
        f"Licence of the training data: {UNSTATED}; ask who provided them.",
        "",
    ]
    lines += ["## Model", ""]
    lines += [f"- {model['name']}, {model['rank']}-D, {model['parameters']:,} parameters, {model['in_channels']} input channels"]
    lines += [f"- classes: {', '.join(f'{label} ({value})' for label, value in zip(record['labels'], record['values']))}"]
    if record["regions"]:
        lines += [f"- learnt as regions: {'; '.join(f'{n} = classes {c}' for n, c in record['regions'])}"]
    lines += [f"- written by jaxseg {record.get('jaxseg', '?')}"]
    if imported:
        lines += [f"- trained by {imported['from']} ({', '.join(f'{k} {v}' for k, v in imported.items() if k != 'from')})"]
    if "application" in about:
        lines += [f"- applied {_applied(about)}"]
    lines += ["", "## Data", "", *_data(record), "", "## Preparation", "", *_preparation(recipe), "", "## Scores", ""]
    lines += _scores(record, evaluation)
    lines += [
        "",
        "## Limits",
        "",
        "Scores hold for images like those of the splits above: other scanners, protocols, populations",
    ]
    lines += ["or preparations may give other results without any sign of it. Check every result.", ""]
    return "\n".join(lines)


def _applied(about: Mapping[str, Any]) -> str:
    how = about["application"]
    if "regions" in how:
        rule = how["regions"]
        place = f"to crops of {rule['crop']} around at most {rule['max_instances']} regions, joined by {rule['merge']}"
    else:
        place = _place(how)
    flips = f"; logits averaged over flips of axes {how['mirror']}" if how["mirror"] else ""
    steps = ", ".join(step["step"] for step in about["postprocess"]) or "none"
    first = f". First network: {about['first']['network']}, applied {_applied(about['first'])}" if "first" in about else ""
    return f"{place}{flips}; threshold {about['threshold']}; post-processing: {steps}{first}"


def _place(how: Mapping[str, Any]) -> str:
    if not how["windows"]:
        return "as a whole"
    return f"in windows of {how['window']}, overlap {how['overlap']}, weights {how['blend']}, summed in {how['sums']}"


def _data(record: Mapping[str, Any]) -> list[str]:
    splits = ", ".join(f"{name} {len(patients)}" for name, patients in record["splits"].items())
    data = record["data"]
    found = [f"- data set: {record['dataset']}, {data['examples']} examples, digest {data['digest'] or 'unknown'}"]
    found += [f"- patients by split: {splits}" if any(record["splits"].values()) else "- splits: not known here"]
    if record["config"]["data"].get("ignore") == "leave_out":
        found += ["- partly annotated: voxels with the data set's ignore label count neither in the loss nor in the scores"]
    return found + ([f"- left out: {len(data['left_out'])} cases"] if data["left_out"] else [])


def _preparation(recipe: Mapping[str, Any]) -> list[str]:
    named = {
        "modalities, in this order": ", ".join(recipe.get("modalities", ())),
        "intensity": recipe.get("intensity"),
        "window (level, width)": recipe.get("window"),
        "spacing, mm": recipe.get("spacing"),
        "size of the input": recipe.get("size"),
        "fit": recipe.get("fit"),
        "crop": recipe.get("crop"),
        "filter": recipe.get("filter"),
        "cut to non-zero": recipe.get("nonzero"),
    }
    return [f"- {what}: {value}" for what, value in named.items() if value]


def _scores(record: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["The test split has not been scored."]
    found = [f"Test split, {evaluation['examples']} examples, on {evaluation['grid']} (mean +- standard deviation, n):", ""]
    measures = [m for m in _MEASURES if any(m in row for row in evaluation["scores"].values())]
    found += [f"| | {' | '.join(measures)} | missed | false alarms |", f"|---|{'---|' * (len(measures) + 2)}"]
    for name, row in evaluation["scores"].items():
        cells = " | ".join(_cell(row.get(m)) for m in measures)
        found.append(
            f"| {name} | {cells} | {row.get('missed', '?')} of {row.get('images', '?')} | {row.get('false_alarms', '?')} |"
        )
    pooled = evaluation.get("pooled_dice")
    found += ["", f"Dice of all voxels together: {pooled:.4f}."] if isinstance(pooled, float) else []
    return found


def _cell(score: Mapping[str, Any] | None) -> str:
    if not score or score.get("mean") is None:
        return "-"
    return f"{score['mean']:.4f} +- {score['std']:.4f} ({score['n']})"
