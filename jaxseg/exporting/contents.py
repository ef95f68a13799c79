"""The description of an exported model: network, preparation, how the network is applied, classes, post-processing.

It is the record of a run, reduced to what another program needs; anything that the runner does not support is refused here by
name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxseg
from jaxseg import checkpoint
from jaxseg.data.prepare.examples import dtype_of
from jaxseg.exporting import card
from jaxseg.exporting.program import Inputs
from jaxseg.exporting.runner import preparation
from jaxseg.infer import cases, network, postprocess
from jaxseg.infer.run import Run, alone, open_run, stage_of
from jaxseg.models.functional import Network
from jaxseg.types import ConfigError, MismatchError

FORMAT = 2  # of model.json; the runner reads this one alone


class Contents(NamedTuple):
    """A run, ready to be exported.

    Attributes:
      run: the folder of the run, or of a checkpoint.
      record: the run's record.
      about: the content of model.json.
      network: the network without its values.
      inputs: the network's inputs.
      weights: (params, state) of the run, and of the other runs of its ensemble.
      first: the first network of a cascade: of nnU-Net's, whose classes are further input channels, or the one that finds regions
        of interest; None: there is none.
    """

    run: Path
    record: dict[str, Any]
    about: dict[str, Any]
    network: Network
    inputs: Inputs
    weights: tuple[tuple[dict, dict], ...]
    first: "Contents | None" = None


def read(
    run: Path, settings: Mapping[str, Any], *, threshold: float | None, licence: str, applied: bool = True, finds: bool = False
) -> Contents:
    """Open a run and describe it.

    Args:
      run: run or checkpoint folder.
      settings: the config's infer group.
      threshold: config.eval.threshold; None: the record's.
      licence: licence of the model, as the user states it; "": the one in the run's card.
      applied: whether the exported file also applies the network (windows, flips, ensemble); otherwise its user does.
      finds: the run is the first network of a cascade, which finds regions of interest.
    Raises:
      ConfigError, MismatchError: the run uses something that exported models do not support.
    """
    if settings["roi"] and not applied:
        raise ConfigError(f"config.infer.roi={settings['roi']}: this format holds one network; export the two runs separately")
    if settings["whole"]:
        raise ConfigError("config.infer.whole=True: an exported model works by windows; give --config.infer.whole=False")
    record = checkpoint.find_record(run)
    stage = stage_of(run, record) if applied else None
    if settings["roi"]:
        stage = Path(settings["roi"]), alone(settings)
    if applied:
        check_preparation(record, finds=finds)
    opened = open_run(run, settings, threshold=threshold)
    steps = postprocess.read_steps(run) if settings["postprocess"] else []
    forward, m, recipe = opened.application.forward, record["model"], opened.recipe
    coordinates = bool(record["config"]["data"]["coordinates"])
    dtype = np.dtype(np.float32) if coordinates else dtype_of(recipe, m["rank"])
    inputs = Inputs(tuple(recipe.size), m["in_channels"], str(dtype), forward.mean, forward.std)
    about = {
        "format": FORMAT,
        "jaxseg": jaxseg.__version__,
        "network": m["name"],
        "parameters": m["parameters"],
        "rank": m["rank"],
        "modalities": list(recipe.modalities),
        "labels": list(record["labels"]),
        "values": list(record["values"]),
        "maps": cases.map_names(record),
        "regions": record["regions"],
        "order": list(opened.order),
        "structures": [[name, classes] for name, classes in cases.structures_of(record)],
        "threshold": opened.threshold,
        "preparation": recipe.as_dict(),
        "application": _application(opened, coordinates),
        "postprocess": [{"step": step["step"], "options": step["options"]} for step in steps],
        "synthetic": record["synthetic"],
        "licence": licence or card.licence_of(checkpoint.run_folder(run) / card.NAME),
        "digest": opened.digest,
    }
    first = None if stage is None else read(*stage, threshold=None, licence=licence, finds=bool(settings["roi"]))
    return Contents(run, record, plain(about), forward.network, inputs, opened.weights, first)


def check_preparation(record: Mapping[str, Any], *, finds: bool = False) -> None:
    """Refuse runs whose preparation needs what the runner does not know.

    Args:
      record: the run's record.
      finds: as for `read`.
    Raises:
      MismatchError.
    """
    recipe, data = record["recipe"], record["config"]["data"]
    unlike = {"data.whole": "True" if data["whole"] and not finds else ""}
    unlike["data.dataset"] = record["dataset"] if record["dataset"] == "brats_arrays" else ""
    for name, value in recipe.items():
        known = preparation.KNOWN.get(name, ())
        each = value.replace("+", ">").split(">") if name == "intensity" else [value]
        if name not in preparation.FREE and not all(one in known for one in each):
            unlike[f"data.{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    for what, found in unlike.items():
        if found:
            raise MismatchError(
                f"the run was trained with {what}={found}, which exported models do not support; use jaxseg predict"
            )


def _application(opened: Run, coordinates: bool) -> dict[str, Any]:
    """Return the entry of model.json about how the network is applied to an example."""
    how, forward = opened.application, opened.application.forward
    found = {"windows": isinstance(how, network.Windows), "coordinates": coordinates}
    found |= {"batch": forward.batch, "mirror": list(forward.mirror)}
    if isinstance(how, network.Cascade):
        found |= {"mirror": [], "regions": how.rule}
    if isinstance(how, network.Shrunk):
        found |= {"mirror": []}
    if isinstance(how, network.Windows):
        found |= {key: how.options[key] for key in ("window", "overlap", "positions", "blend", "sums")}
    return found


def plain(value: Any) -> Any:
    """Return a value as JSON would restore it."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
