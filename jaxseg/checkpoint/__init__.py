"""Checkpoints and the run's own record: what train writes and train, infer and evaluate read.

A run folder:

| path | what |
|---|---|
| run.json | the record: resolved config, preprocessing recipe, labels, model (`write_record`, `read_record`, `find_record`) |
| state.json | written once training has finished (`Claim.finish`) |
| checkpoints/N/ | the train state after step N: `state/` and `info/` as Orbax writes them, and our `digests.json` |
| checkpoints/N.corrupt/ | a step that did not match its digests; kept as evidence, never loaded, yours to delete |
| .lock | held by the process that trains here (`claim`) |
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseg.checkpoint.claims import Claim, claim
    from jaxseg.checkpoint.manager import Checkpoints
    from jaxseg.checkpoint.record import CHECKPOINTS, find_record, read_record, run_folder, write_record
    from jaxseg.checkpoint.weights import keep_copy, load_weights, step_folder

_PLACES = {  # looked up on first use: reading a record does not import Orbax
    "claims": ("Claim", "claim"),
    "manager": ("Checkpoints",),
    "record": ("CHECKPOINTS", "find_record", "read_record", "run_folder", "write_record"),
    "weights": ("keep_copy", "load_weights", "step_folder"),
}

__all__ = [
    "CHECKPOINTS",
    "Checkpoints",
    "Claim",
    "claim",
    "find_record",
    "keep_copy",
    "load_weights",
    "read_record",
    "run_folder",
    "step_folder",
    "write_record",
]


def __getattr__(name: str):
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"jaxseg.checkpoint.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
