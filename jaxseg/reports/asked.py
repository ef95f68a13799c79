"""What was asked of a run or of a comparison: data, splits, versions, and the config as a difference to the defaults."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg import checkpoint
from jaxseg.reports import page
from jaxseg.reports.names import without_paths
from jaxseg.reports.reading import EXPERIMENT, Read
from jaxseg.utils import guard

OF_RUNS = ("seed", "data.split", "data.folds", "data.fold")  # keys in which the runs of one model differ


def of_run(read: Read) -> str:
    """Return the section of a run's page."""
    facts = _facts(read.record, hashed=read.show is not str)
    model = read.record["model"]
    facts["network"] = f"{model['name']}, {model['parameters']:,} parameters, {model['in_channels']} channels in"
    if read.found:
        facts["weights"] = f"step {read.found['weights']['step']}, digest {read.found['weights']['digest']}"
    said, hashed = _table(facts, "the run"), read.show is not str
    value = lambda v: json.dumps(without_paths(v, hashed=hashed), ensure_ascii=False)
    if read.experiment:
        rows = [{"key": key, "value": value(new), "default": value(old)} for key, (old, new) in read.experiment.items()]
        said += "<h3>What the config changes</h3>" + page.table(rows, "config")
    whole = json.dumps(without_paths(read.record["config"], hashed=hashed), indent=1, ensure_ascii=False)
    return f"{said}<details><summary>The whole configuration</summary><pre><code>{page.text(whole)}</code></pre></details>"


def of_models(folders: Mapping[str, Path], *, hashed: bool) -> str:
    """Return the section of a comparison's page: what all models share, and the keys in which they differ.

    Args:
      folders: name of a model -> the folder of its first finished run.
      hashed: whether names are hashed.
    """
    if not folders:
        return ""
    said = _table(_facts(checkpoint.read_record(next(iter(folders.values()))), hashed=hashed), "the data")
    changes = {m: guard.read_json(f / EXPERIMENT) if (f / EXPERIMENT).is_file() else {} for m, f in folders.items()}
    defaults = {key: old for mine in changes.values() for key, (old, _) in mine.items()}
    shared, varied = [], []
    text = lambda value: json.dumps(without_paths(value, hashed=hashed), ensure_ascii=False)
    for key in sorted(defaults.keys() - set(OF_RUNS)):
        values = {model: text(mine[key][1] if key in mine else defaults[key]) for model, mine in changes.items()}
        if len(set(values.values())) == 1:
            shared.append({"key": key, "value": next(iter(values.values())), "default": text(defaults[key])})
        else:
            varied.append({"key": key, **values, "default": text(defaults[key])})
    if varied:
        said += "<h3>In what the models differ</h3>" + page.table(varied, "in what the models differ")
    if shared:
        said += "<h3>What all configs change</h3>" + page.table(shared, "config")
    return said


def _facts(record: Mapping[str, Any], *, hashed: bool) -> dict[str, str]:
    splits = ", ".join(f"{name} {len(patients)}" for name, patients in record["splits"].items())
    made = " (SYNTHETIC)" * record["synthetic"]
    facts = {
        "data": f"{record['dataset']}, {record['data']['examples']} examples{made}",
        "patients of each split": splits,
        "classes": ", ".join(record["labels"]),
        "digest of the data": "" if hashed else record["data"]["digest"],
        "jaxseg": record["jaxseg"],
        "trained on": ", ".join(f"{key} {value}" for key, value in sorted(record["surroundings"].items())),
    }
    if record["data"]["left_out"]:
        facts["left out as unusable"] = f"{len(record['data']['left_out'])} cases"
    return facts


def _table(facts: Mapping[str, str], caption: str) -> str:
    return page.table([{"": key, "what": value} for key, value in facts.items()], caption)
