"""Checkpoints and records of runs: training writes them; resuming, evaluation and prediction read them.

A run folder:

| path | content |
|---|---|
| run.json | the record: resolved config, preprocessing recipe, labels, model (`write_record`, `read_record`, `find_record`) |
| state.json | written once training has finished (`Claim.finish`) |
| checkpoints/N/ | the train state after step N: Orbax's `state/` and `info/`, and `digests.json` with checksums |
| checkpoints/N.corrupt/ | a step that did not match its digests; never loaded; kept for inspection, the user may delete it |
| previous/N/ | of a cascade: copies of its first stage's runs |
| .lock | locked by the process that trains in this folder (`claim`) |
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseg.checkpoint.claims import Claim, claim
    from jaxseg.checkpoint.manager import Checkpoints
    from jaxseg.checkpoint.record import (
        CHECKPOINTS,
        PREVIOUS,
        copied_stages,
        find_record,
        read_record,
        run_folder,
        stages_of,
        write_record,
    )
    from jaxseg.checkpoint.weights import keep_copy, load_weights, step_folder

_PLACES = {  # looked up on first use: reading a record does not import Orbax
    "claims": ("Claim", "claim"),
    "manager": ("Checkpoints",),
    "record": (
        "CHECKPOINTS",
        "PREVIOUS",
        "copied_stages",
        "find_record",
        "read_record",
        "run_folder",
        "stages_of",
        "write_record",
    ),
    "weights": ("keep_copy", "load_weights", "step_folder"),
}

__all__ = [
    "CHECKPOINTS",
    "Checkpoints",
    "Claim",
    "PREVIOUS",
    "claim",
    "copied_stages",
    "find_record",
    "keep_copy",
    "load_weights",
    "read_record",
    "run_folder",
    "stages_of",
    "step_folder",
    "write_record",
]


def __getattr__(name: str):
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"jaxseg.checkpoint.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
