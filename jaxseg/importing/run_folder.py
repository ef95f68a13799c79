"""Write the run folder of an imported model: run.json, checkpoints/0 and, if it has post-processing, postprocess.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import checkpoint
from jaxseg import config as configs
from jaxseg.data.splits import save_splits
from jaxseg.exporting import card
from jaxseg.infer import postprocess
from jaxseg.metrics.regions import Regions
from jaxseg.programs import conditions
from jaxseg.train import patients, setup
from jaxseg.train.processes import surroundings
from jaxseg.utils import files


def record(
    config: ConfigDict,
    *,
    labels: Sequence[str],
    values: Sequence[int],
    regions: Regions,
    modalities: Sequence[str],
    num_classes: int,
    params: Mapping[str, np.ndarray],
    imported: Mapping[str, str],
) -> dict[str, Any]:
    """The record (run.json) of an imported model for volumes.

    Args:
      config: the resolved config.
      labels: names of the classes 1, 2, ...
      values: values of these classes in masks.
      regions: unions of classes, each with one output; () if the outputs are classes.
      modalities: names of the channels; () if they have none.
      num_classes: number of outputs of the network.
      params: parameters of the network, to count them.
      imported: description of the model's origin.
    """
    recipe = setup.recipe_from(config, labels=tuple(labels), modalities=tuple(modalities))
    return {
        "config": configs.as_dict(config),
        "recipe": recipe.as_dict(),
        "labels": list(labels),
        "values": list(values),
        "regions": [list(region) for region in regions],
        "model": {
            "name": config.model.name,
            "in_channels": setup.input_channels(config),
            "options": config.model.options.to_dict(),
            "num_classes": num_classes,
            "rank": 3,
            "parameters": sum(int(np.prod(p.shape)) for p in params.values()),
        },
        "dataset": config.data.dataset,
        "synthetic": False,
        "made_by": "",
        "data": {"digest": "", "examples": 0, "left_out": []},
        "code": {},
        "history": [],
        surroundings.NAME: conditions.hardware(),
        "splits": {"train": [], "val": [], "test": []},
        "imported": dict(imported),
    }


def write(place: Path, record: Mapping[str, Any], arrays: tuple[dict, dict], source: Path, steps: Sequence[dict] = ()) -> None:
    """Write a run folder into the empty folder `place`.

    Args:
      arrays: (params, state) of the network.
      source: the file of its weights.
      steps: post-processing steps, in the form of `infer.postprocess`.
    """
    checkpoint.write_record(place, record)
    if any(record["splits"].values()):
        save_splits(place / patients.SPLITS, record["splits"])
    card.write(place)
    if steps:
        files.write_json(place / postprocess.FILE, list(steps))
    with checkpoint.Checkpoints(place / checkpoint.CHECKPOINTS) as checkpoints:
        params, state = arrays
        checkpoints.save(
            0, {"params": params, "state": state}, {"evaluated": "params", "next_batch": 0, "converted_from": str(source)}
        )
