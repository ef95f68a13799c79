"""Read the inference settings of a MONAI bundle: network, preparation, windows, post-processing, names of channels and classes.

    BUNDLE/configs/inference.json  network_def, preprocessing, inferer, postprocessing: objects with "_target_", references "@id"
    BUNDLE/configs/metadata.json   names of channels and classes ("channel_def")
    BUNDLE/models/model.pt         the weights

No code is run: a Python expression ("$...") that is not a literal counts as missing, and must be given on the command line. An
unsupported transform or argument is refused by name, so that an imported network never gets images that were prepared
differently from those it was trained on.

Source: MONAI, monai/bundle (configuration), monai/transforms/spatial and /intensity, monai/inferers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.importing.bundles.configuration import INFERENCE, Expression, accept, resolved, transforms_of, typed_object, unknown
from jaxseg.importing.bundles.preprocessing import NEUTRAL, preparation
from jaxseg.types import DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.guard import shown

METADATA = "configs/metadata.json"
WEIGHTS = ("models/model.pt", "models/model.ts")
LARGEST = "KeepLargestConnectedComponent"
_AFTER = ("Activations", "Invert", "AsDiscrete", LARGEST)  # transforms of logits and labels


class Settings(NamedTuple):
    """The settings of a bundle; None for those that it does not state.

    Attributes:
      network: (name of MONAI's class, its arguments).
      spacing: mm along the axes of the orientation; () for the scan's own.
      orientation: one of `geometry.ORIENTATIONS`.
      intensity: a value of data.intensity.
      together: whether statistics are computed over all channels together.
      statistics: (lowest, highest, mean, standard deviation) for "ct_zscore"; for "percentiles" two percentiles and what they
        become.
      above: a value of data.above, the box to which scans are cropped.
      filter: a value of data.filter; it also determines whether intensities are scaled after resampling.
      window: size of the sliding window in voxels; of pictures, and of networks that take slices, 1 along the axis across.
      overlap: overlap of neighbouring windows, as a fraction.
      blend: a value of infer.blend.
      activation: "softmax" or "sigmoid".
      threshold: probability threshold for sigmoid outputs.
      channels: names of the inputs.
      classes: names of the outputs, without the background of a softmax.
      largest: post-processing: groups of classes (their values), of each of which the largest component is kept; (0,) stands
        for every class by itself.
    """

    network: tuple[str, dict[str, Any]] | None = None
    spacing: tuple[float, ...] | None = None
    orientation: str | None = None
    intensity: str | None = None
    together: bool = False
    statistics: tuple[float, ...] = ()
    above: tuple = ()
    filter: str = "monai"
    window: tuple[int, ...] | None = None
    overlap: float | None = None
    blend: str | None = None
    activation: str | None = None
    threshold: float = 0.5
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    largest: tuple[tuple[int, ...], ...] = ()


def read(folder: Path) -> Settings:
    """Read the settings of a bundle's folder.

    Raises:
      DataError: there is no readable configs/inference.json.
      MismatchError: the bundle uses something that jaxseg does not support.
    """
    if not (folder / INFERENCE).is_file():
        raise DataError(f"{folder}: has no {INFERENCE}; give a bundle's folder, or a weight file with --network", "DATA_TABLE")
    content = guard.read_json(folder / INFERENCE)
    if not isinstance(content, Mapping):
        raise DataError(f"{folder / INFERENCE}: holds {shown(content)}; must be a JSON object", "DATA_TABLE")
    part = lambda *names: next((resolved(content, content[name]) for name in names if name in content), None)
    try:
        prepared = preparation(transforms_of(part("preprocessing")))
        after = _outcome(transforms_of(part("postprocessing")), bool(prepared.get("spacing")))
        network = typed_object(part("network_def", "net", "network"))
        return Settings(network=network, **prepared, **_inferer(typed_object(part("inferer"))), **after, **_names(folder, after))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError | MismatchError):
            raise
        said = f"{type(error).__name__} {guard.one_line(str(error))[:80]}"
        raise DataError(f"{folder / INFERENCE}: is not a bundle's configuration: {said}", "DATA_TABLE") from error


def _inferer(found: tuple[str, dict] | None) -> dict[str, Any]:
    if found is None:
        return {}
    name, given = found
    if name == "SimpleInferer":
        return {"overlap": 0.25, "blend": "constant"}  # whole images: --window says how large they are
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        raise MismatchError(
            f"{INFERENCE}: the inferer {name} is not supported; must be SlidingWindowInferer, SliceInferer or SimpleInferer"
        )
    window, overlap = given.get("roi_size"), given.get("overlap", 0.25)
    overlaps = set(overlap) if isinstance(overlap, list | tuple) else {overlap}
    mode = given.get("mode", "constant")
    accept(name, "mode", mode, ("constant", "gaussian"))
    accept(name, "overlap", len(overlaps), (1,))
    accept(name, "sigma_scale", given.get("sigma_scale", 0.125), (0.125,))
    accept(
        name,
        "padding_mode",
        given.get("padding_mode", "constant"),
        ("constant",),
        "which matters for images smaller than a window",
    )
    accept(name, "cval", given.get("cval", 0.0), (0.0,))
    said: dict[str, Any] = {"blend": mode}
    if isinstance(window, int):
        window = [window] * 3
    if isinstance(window, list | tuple) and all(isinstance(n, int) and n > 0 for n in window):
        across = given.get("spatial_dim", 0) if name == "SliceInferer" else 2
        said["window"] = (*window[:across], 1, *window[across:]) if len(window) == 2 else tuple(window)
    (one,) = overlaps
    return said if isinstance(one, Expression) else said | {"overlap": float(one)}


def _outcome(steps: list[tuple[str, dict]] | None, spaced: bool) -> dict[str, Any]:
    """The settings for post-processing logits. MONAI resamples probabilities back to the scan, and then takes the labels."""
    if steps is None:
        return {}
    names = [name for name, _ in steps if name not in NEUTRAL]
    for name in names:
        if name not in _AFTER:
            raise unknown("postprocessing", name, (*_AFTER, *sorted(NEUTRAL)))
    given = dict(steps)
    found: dict[str, Any] = {}
    activations, discrete, invert = (given.get(name, {}) for name in ("Activations", "AsDiscrete", "Invert"))
    one = lambda value: value[0] if isinstance(value, list | tuple) and value else value
    for kind in ("sigmoid", "softmax"):
        if one(activations.get(kind, False)):
            found["activation"] = kind
    if one(activations.get("other")):
        raise MismatchError(
            f"{INFERENCE}: Activations with other={shown(activations['other'])} is not supported; only sigmoid and softmax are"
        )
    if LARGEST in names:
        found["largest"] = _largest(given[LARGEST], names, spaced=spaced, softmax=found.get("activation") == "softmax")
    threshold = one(discrete.get("threshold"))
    if isinstance(threshold, int | float) and not isinstance(threshold, bool):
        found["threshold"] = float(threshold)
    if spaced and "Invert" in names:
        if "Activations" not in names or names.index("Activations") > names.index("Invert"):
            raise MismatchError(
                f"{INFERENCE}: Invert comes before Activations, so that logits are resampled; put Activations first"
            )
        if one(invert.get("nearest_interp", True)) or "AsDiscrete" in names[: names.index("Invert")]:
            raise MismatchError(
                f"{INFERENCE}: Invert by nearest neighbour is not supported, because probabilities are resampled; set "
                "nearest_interp to false, and put AsDiscrete after Invert"
            )
    return found


def _largest(given: Mapping[str, Any], names: list[str], *, spaced: bool, softmax: bool) -> tuple[tuple[int, ...], ...]:
    """The groups of classes of which KeepLargestConnectedComponent keeps the largest component, see `Settings.largest`."""
    before = ("AsDiscrete", *(("Invert",) if spaced and "Invert" in names else ()))
    late = all(name in names and names.index(name) < names.index(LARGEST) for name in before)
    if names.count(LARGEST) > 1 or not late or not softmax or given.get("is_onehot"):
        raise MismatchError(
            f"{INFERENCE}: {LARGEST} is supported once, for the classes of a softmax, after AsDiscrete and Invert; remove it, or "
            "put it there"
        )
    accept(LARGEST, "connectivity", given.get("connectivity"), (None, 3))
    accept(LARGEST, "num_components", given.get("num_components", 1), (1,))
    labels, apart = given.get("applied_labels"), given.get("independent", True)
    if isinstance(labels, Expression) or isinstance(apart, Expression):
        raise MismatchError(f"{INFERENCE}: {LARGEST} with an expression, which is not evaluated; replace it by its value")
    if labels is None:
        return ((0,),) if apart else ((),)
    labels = [labels] if isinstance(labels, int) else [int(label) for label in labels if label != 0]
    return tuple((label,) for label in labels) if apart else (tuple(labels),)


def _names(folder: Path, after: Mapping[str, Any]) -> dict[str, Any]:
    """The names of channels and classes in metadata.json."""
    if not (folder / METADATA).is_file():
        return {}
    content = guard.read_json(folder / METADATA)
    formats = content.get("network_data_format", {}) if isinstance(content, Mapping) else {}

    def named(side: str) -> list[str]:
        (table,) = [one.get("channel_def", {}) for one in list(formats.get(side, {}).values())[:1]] or [{}]
        return [re.sub(r"\s+", "_", str(table[key]).strip()) for key in sorted(table, key=int)]

    inputs, outputs = named("inputs"), named("outputs")
    if after.get("activation") == "softmax" or outputs[:1] == ["background"]:
        outputs = outputs[1:]
    return {"channels": tuple(inputs), **({"classes": tuple(outputs)} if outputs else {})}
