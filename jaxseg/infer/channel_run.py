"""Read a run's network and weights from disk; open the run whose network generates an extra input channel for another run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import checkpoint
from jaxseg.data.prepare import channels
from jaxseg.data.records import Recipe
from jaxseg.data.store.base import recipe_from
from jaxseg.infer import network as networks
from jaxseg.infer.labels import probabilities_of
from jaxseg.models import create_model, functional
from jaxseg.types import CheckpointError, MismatchError
from jaxseg.utils import code, files

TARGET_OF = {"edge": "edges", "painted_edge": "edges", "autoencoder": "composite"}  # channel -> what its run has learnt
FOLDER = "extra_run"  # inside a run: a copy of the run that makes its extra channel
BATCH = 16  # images per forward pass
_ALIKE = ("size", "window", "spacing", "intensity", "modalities", "filter", "crop", "blur")  # how both must prepare images


def read_network(run: Path, record: Mapping[str, Any]) -> tuple[functional.Network, tuple[dict, dict], str]:
    """Read the network and weights of a run.

    Args:
      run: run folder, or a checkpoint folder inside one.
      record: the run's record.
    Returns:
      (network, (params, state), digest of the weights and of the record's entries about the network).
    Raises:
      CheckpointError: the folder holds no usable checkpoint.
      MismatchError: the checkpoint does not fit the recorded network, or the files that define the user's own network changed.
    """
    m = record["model"]
    with code.recorded_alone():
        code.check(record["code"], checkpoint.run_folder(run))
        model = create_model(
            m["name"], in_channels=m["in_channels"], num_classes=m["num_classes"], rank=m["rank"], abstract=True, **m["options"]
        )
    network, _, _ = functional.split(model)
    params, state, _ = checkpoint.load_weights(run)
    network.check(params, state)
    about = json.dumps([m, record["config"]["train"]["dtype"], recipe_from(record).as_dict()], sort_keys=True)
    return (
        network,
        (params, state),
        files.digest(
            about,
            *(part for tree in (params, state) for name in sorted(tree) for part in (name, np.asarray(tree[name]).tobytes())),
        ),
    )


def of(run: Path, record: Mapping[str, Any], recipe: Recipe) -> channels.Generate | None:
    """Return the function that generates a run's trained extra channel, from the copy of that other run inside the run's folder.

    Args:
      run: the run folder.
      record: the run's record.
      recipe: the run's recipe.
    Returns:
      The function; None if the run has no such channel.
    Raises:
      CheckpointError: the copy is missing.
      MismatchError: the copy is not the one that training used.
    """
    if not channels.trained(recipe.extra):
        return None
    copy = checkpoint.run_folder(run) / FOLDER
    generate, digest = open_channel_run(copy, recipe)
    if digest != record["made_by"]:
        raise MismatchError(
            f"{copy} has the digest {digest}, but {run} was trained with an extra channel from the network with the digest "
            f"{record['made_by']}; restore the copy that training made"
        )
    return generate


def channel_of(recipe: Recipe, run: str | Path) -> tuple[channels.Generate | None, str]:
    """Return the function that generates the recipe's trained channel, and its network's digest; (None, "") if there is none.

    Raises:
      CheckpointError, MismatchError: the run cannot be used, see `open_channel_run`.
    """
    return open_channel_run(Path(run), recipe) if channels.trained(recipe.extra) else (None, "")


def open_channel_run(run: Path, recipe: Recipe) -> tuple[channels.Generate, str]:
    """Open the run that generates a recipe's trained extra channel.

    Args:
      run: a run that was trained to predict edges or composites.
      recipe: the recipe of the network that takes the channel.
    Returns:
      (the function that generates the channel, digest of the run's weights).
    Raises:
      CheckpointError: the folder holds no run.
      MismatchError: the run was trained for something else, or its images are prepared differently.
    """
    (name,) = channels.trained(recipe.extra)
    try:
        record = checkpoint.find_record(run)
        network, weights, digest = read_network(run, record)
    except CheckpointError as error:
        raise CheckpointError(
            f"config.data.extra_run, the run that generates the channel {name!r}: {error}; first train such a run with "
            f"config.data.target={TARGET_OF[name]!r}"
        ) from error
    theirs = recipe_from(record)
    if theirs.target != TARGET_OF[name] or theirs.extra:
        raise MismatchError(
            f"config.data.extra_run={run}: was trained to predict {theirs.target!r} from "
            f"{', '.join(theirs.extra) or 'the image alone'}; the channel {name!r} needs a run with "
            f"config.data.target={TARGET_OF[name]!r} and no data.extra"
        )
    ours = {**{key: getattr(recipe, key) for key in _ALIKE}, "channels": recipe.channels - channels.added(recipe.extra)}
    differ = [f"{key} {getattr(theirs, key)} there, {value} here" for key, value in ours.items() if getattr(theirs, key) != value]
    if differ:
        raise MismatchError(
            f"config.data.extra_run={run}: its images are prepared differently ({'; '.join(differ)}); train "
            "it with the same keys of config.data"
        )
    forward = networks.Forward(
        network,
        num_classes=record["model"]["num_classes"],
        batch=BATCH,
        mean=theirs.mean,
        std=theirs.std,
        dtype=record["config"]["train"]["dtype"],
    )
    images, placed = networks.WholeImages(forward), (forward.place(*weights),)
    return lambda prepared: probabilities_of(images(placed, prepared)), digest
