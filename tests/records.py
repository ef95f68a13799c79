"""A run's record as training writes it, and one that somebody edits."""

import importlib
import json
from pathlib import Path

from jaxseg.checkpoint import record as records
from jaxseg.config import as_dict, resolve

CONFIG = as_dict(resolve(importlib.import_module("configs.ich_segnext").get_config("quick"), name="ich_segnext"))
RECORD = {
    "config": CONFIG,
    "recipe": {"size": CONFIG["data"]["size"], "window": (40.0, 120.0), "spacing": None, "channels": 1, "labels": ["bleed"]},
    "labels": ["bleed"],
    "values": [1],
    "regions": [],
    "dataset": "ct_ich",
    "synthetic": True,
    "made_by": "",
    "model": {"name": "segnext_test", "in_channels": 1, "num_classes": 1, "rank": 2, "options": {}, "parameters": 1},
    "data": {"digest": "0" * 32, "examples": 3, "left_out": []},
    "splits": {"train": ["a"], "val": ["b"], "test": ["c"]},
    "code": {},
    "surroundings": {},
    "history": [],
}


def edit(folder: Path, change, *, digest: bool = True) -> None:
    """Change a run's record in place by `change(record)`, with the digest of its new content or with the old one."""
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record = change(record) or record
    if digest:
        record["digest"] = records.digest_of(record)
    path.write_text(json.dumps(record))
