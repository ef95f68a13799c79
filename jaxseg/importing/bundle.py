"""Read the inference settings of a MONAI bundle: network, preparation, windows, post-processing, names of channels and classes.

    BUNDLE/configs/inference.json  network_def, preprocessing, inferer, postprocessing: objects with "_target_", references "@id"
    BUNDLE/configs/metadata.json   names of channels and classes ("channel_def")
    BUNDLE/models/model.pt         the weights

No code is run: a Python expression ("$...") that is not a literal counts as missing, and must be given on the command line. An
unsupported transform or argument is refused by name, so that an imported network never gets images that were prepared
differently from those it was trained on.

Source: MONAI, monai/bundle (configuration), monai/transforms/spatial and /intensity, monai/inferers.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.types import DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.guard import shown

INFERENCE, METADATA = "configs/inference.json", "configs/metadata.json"
WEIGHTS = ("models/model.pt", "models/model.ts")
NEUTRAL = {  # transforms that change no values, or only read and write files
    *("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "ToTensor", "ToDevice", "CastToType"),
    *("SaveImage", "Identity", "DeleteItems"),
}
LARGEST = "KeepLargestConnectedComponent"
_AFTER = ("Activations", "Invert", "AsDiscrete", LARGEST)  # transforms of logits and labels
FREE = 3e38  # larger than any intensity: no clipping
MOST_DEPTH = 32  # of references to references


class Settings(NamedTuple):
    """The settings of a bundle; None for those that it does not state.

    Attributes:
      network: (name of MONAI's class, its arguments).
      spacing: mm along the axes of the orientation; () for the scan's own.
      orientation: one of `geometry.ORIENTATIONS`.
      intensity: a value of data.intensity.
      together: whether statistics are computed over all channels together.
      statistics: (lowest, highest, mean, standard deviation) for "ct_zscore".
      filter: a value of data.filter; it also determines whether intensities are scaled after resampling.
      window: size of the sliding window in voxels.
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
    filter: str = "monai"
    window: tuple[int, ...] | None = None
    overlap: float | None = None
    blend: str | None = None
    activation: str | None = None
    threshold: float = 0.5
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    largest: tuple[tuple[int, ...], ...] = ()


class Expression(str):
    """A Python expression in the JSON, which is not evaluated."""


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
        prepared = _preparation(_steps(part("preprocessing")))
        after = _outcome(_steps(part("postprocessing")), bool(prepared.get("spacing")))
        network = _object(part("network_def", "net", "network"))
        return Settings(network=network, **prepared, **_inferer(_object(part("inferer"))), **after, **_names(folder, after))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError | MismatchError):
            raise
        said = f"{type(error).__name__} {guard.one_line(str(error))[:80]}"
        raise DataError(f"{folder / INFERENCE}: is not a bundle's configuration: {said}", "DATA_TABLE") from error


def resolved(content: Mapping[str, Any], value: Any, depth: int = 0) -> Any:
    """A value with its references ("@id", "@id::entry") replaced by their values; other expressions become `Expression`s."""
    if depth > MOST_DEPTH:
        raise MismatchError(f"references in {INFERENCE} are circular or more than {MOST_DEPTH} deep; replace them by values")
    deeper = lambda v: resolved(content, v, depth + 1)
    if isinstance(value, Mapping):
        return {key: deeper(v) for key, v in value.items()}
    if isinstance(value, list):
        return [deeper(v) for v in value]
    if not isinstance(value, str) or not value.startswith(("@", "$")):
        return value
    if re.fullmatch(r"@[\w.:#]+", value):
        found: Any = content
        for entry in re.split(r"::|#", value[1:]):
            if isinstance(found, Mapping) and entry in found:
                found = found[entry]
            elif isinstance(found, list) and entry.isdecimal() and int(entry) < len(found):
                found = found[int(entry)]
            else:
                return Expression(value)
        return deeper(found)
    alone = re.fullmatch(r"\$@([\w:#]+)(\.to\(.*\)|\.eval\(\))*", value)  # "$@network_def.to(@device)"
    if alone:
        return deeper(f"@{alone[1]}")
    try:
        return ast.literal_eval(value[1:])
    except (ValueError, SyntaxError):
        return Expression(value)


def _object(found: Any) -> tuple[str, dict[str, Any]] | None:
    """(class name, arguments) of {"_target_": ...}."""
    if not isinstance(found, Mapping) or "_target_" not in found:
        return None
    return str(found["_target_"]).rpartition(".")[2], {k: v for k, v in found.items() if not k.startswith("_")}


def _steps(composed: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """(class name without the suffix "d", arguments) of a Compose's transforms; None if there is none."""
    made = _object(composed)
    if made is None:
        return None
    listed = made[1].get("transforms", []) if made[0] == "Compose" else [composed]
    if isinstance(listed, Expression):
        return None
    steps = []
    for entry in listed:
        one, off = _object(entry), entry.get("_disabled_", False) if isinstance(entry, Mapping) else False
        if one is None or isinstance(off, Expression):
            raise MismatchError(
                f"{INFERENCE}: the transform {shown(entry)} is an expression, which is not evaluated; replace it by a value"
            )
        if not off:
            steps.append((re.sub(r"(d|D|Dict)$", "", one[0]), one[1]))
    return steps


def _preparation(steps: list[tuple[str, dict]] | None) -> dict[str, Any]:
    if steps is None:
        return {}
    found: dict[str, Any] = {"spacing": (), "orientation": "file", "intensity": "none"}
    order: list[str] = []
    for name, given in steps:
        if name in NEUTRAL:
            continue
        if name not in _PREPARATIONS:
            raise _unknown("preprocessing", name, (*_PREPARATIONS, *sorted(NEUTRAL)))
        kind, make = _PREPARATIONS[name]
        if kind in order:
            raise MismatchError(f"{INFERENCE}: preprocessing has a second transform for {kind}, {name}; only one is supported")
        if kind == "orientation" and "spacing" in order:
            raise MismatchError(f"{INFERENCE}: Orientation comes after Spacing, which is not supported; put Orientation first")
        order.append(kind)
        found |= make(given)
    looks_around = found["intensity"] != "none" and "spacing" in order
    if looks_around and order.index("intensity") < order.index("spacing"):
        found["filter"] = "monai_last"
    return found


def _orientation(given: Mapping[str, Any]) -> dict[str, Any]:
    codes = given.get("axcodes")
    if isinstance(codes, Expression) or str(codes).lower() not in ("ras", "lps"):
        raise MismatchError(f"{INFERENCE}: Orientation with axcodes {shown(codes)} is not supported; must be RAS or LPS")
    return {"orientation": str(codes).lower()}


def _spacing(given: Mapping[str, Any]) -> dict[str, Any]:
    mode = given.get("mode", "bilinear")
    _accept("Spacing", "mode", mode[0] if isinstance(mode, list | tuple) else mode, ("bilinear", "linear", "trilinear"))
    for key in ("diagonal", "align_corners", "scale_extent", "recompute_affine"):
        value = given.get(key, False)
        _accept("Spacing", key, any(value) if isinstance(value, list | tuple) else bool(value), (False,))
    _accept("Spacing", "padding_mode", given.get("padding_mode", "border"), ("border",))
    for key in ("min_pixdim", "max_pixdim"):
        _accept("Spacing", key, given.get(key), (None,))
    pixdim = given["pixdim"]
    if isinstance(pixdim, Expression):
        return {"spacing": None}
    values = list(pixdim) if isinstance(pixdim, list | tuple) else [pixdim] * 3
    return {"spacing": tuple(float(v) if v > 0 and math.isfinite(v) else 0.0 for v in values[:3])}


def _range(given: Mapping[str, Any]) -> dict[str, Any]:
    values = [given.get(key) for key in ("a_min", "a_max", "b_min", "b_max")]
    if any(isinstance(v, Expression) for v in values):
        return {"intensity": None}
    return range_rule(*values, clip=bool(given.get("clip", False)))


def range_rule(a_min: float, a_max: float, b_min: float | None, b_max: float | None, *, clip: bool) -> dict[str, Any]:
    """MONAI's ScaleIntensityRange (a_min..a_max to b_min..b_max, default 0..1) as data.intensity and its statistics."""
    b_min, b_max = 0.0 if b_min is None else b_min, 1.0 if b_max is None else b_max
    if a_max <= a_min or b_max <= b_min:
        raise MismatchError(f"ScaleIntensityRange from {a_min}..{a_max} to {b_min}..{b_max}; both ranges must be increasing")
    scale = (a_max - a_min) / (b_max - b_min)
    low, high = (a_min, a_max) if clip else (-FREE, FREE)
    return {"intensity": "ct_zscore", "statistics": (float(low), float(high), float(a_min - b_min * scale), float(scale))}


def _normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    shift, factor = given.get("subtrahend"), given.get("divisor")
    if shift is not None or factor is not None:
        numbers = all(isinstance(v, int | float) for v in (shift, factor))
        if not numbers or given.get("nonzero", False):
            raise MismatchError(
                f"{INFERENCE}: NormalizeIntensity with subtrahend {shown(shift)}, divisor {shown(factor)}, nonzero "
                f"{given.get('nonzero', False)} is not supported; must be two numbers, without nonzero"
            )
        return {"intensity": "ct_zscore", "statistics": (-FREE, FREE, float(shift), float(factor))}
    rule = "zscore_own_nonzero" if given.get("nonzero", False) else "zscore"
    return {"intensity": rule, "together": not given.get("channel_wise", False)}


def _rescale(given: Mapping[str, Any]) -> dict[str, Any]:
    _accept("ScaleIntensity", "minv", given.get("minv", 0.0), (0.0,))
    _accept("ScaleIntensity", "maxv", given.get("maxv", 1.0), (1.0,))
    _accept("ScaleIntensity", "factor", given.get("factor"), (None,))
    return {"intensity": "rescale_to_01", "together": not given.get("channel_wise", False)}


_PREPARATIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "Orientation": ("orientation", _orientation),
    "Spacing": ("spacing", _spacing),
    "ScaleIntensityRange": ("intensity", _range),
    "NormalizeIntensity": ("intensity", _normalise),
    "ScaleIntensity": ("intensity", _rescale),
}


def _inferer(found: tuple[str, dict] | None) -> dict[str, Any]:
    if found is None:
        return {}
    name, given = found
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise MismatchError(f"{INFERENCE}: the inferer {name} is not supported; must be SlidingWindowInferer")
    window, overlap = given.get("roi_size"), given.get("overlap", 0.25)
    overlaps = set(overlap) if isinstance(overlap, list | tuple) else {overlap}
    mode = given.get("mode", "constant")
    _accept(name, "mode", mode, ("constant", "gaussian"))
    _accept(name, "overlap", len(overlaps), (1,))
    _accept(name, "sigma_scale", given.get("sigma_scale", 0.125), (0.125,))
    _accept(name, "padding_mode", given.get("padding_mode", "constant"), ("constant",))
    _accept(name, "cval", given.get("cval", 0.0), (0.0,))
    said: dict[str, Any] = {"blend": mode}
    if isinstance(window, int):
        window = [window] * 3
    if isinstance(window, list | tuple) and all(isinstance(n, int) and n > 0 for n in window):
        said["window"] = tuple(window)
    (one,) = overlaps
    return said if isinstance(one, Expression) else said | {"overlap": float(one)}


def _outcome(steps: list[tuple[str, dict]] | None, spaced: bool) -> dict[str, Any]:
    """The settings for post-processing logits. MONAI resamples probabilities back to the scan, and then takes the labels."""
    if steps is None:
        return {}
    names = [name for name, _ in steps if name not in NEUTRAL]
    for name in names:
        if name not in _AFTER:
            raise _unknown("postprocessing", name, (*_AFTER, *sorted(NEUTRAL)))
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
    _accept(LARGEST, "connectivity", given.get("connectivity"), (None, 3))
    _accept(LARGEST, "num_components", given.get("num_components", 1), (1,))
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


def _accept(name: str, key: str, value: Any, known: Sequence) -> None:
    if isinstance(value, Expression) or value not in known:
        raise MismatchError(
            f"{INFERENCE}: {name} with {key} {shown(value)} is not supported; must be one of {', '.join(map(str, known))}"
        )


def _unknown(part: str, name: str, known: Sequence[str]) -> MismatchError:
    return MismatchError(f"{INFERENCE}: {part} has {name}, which is not supported; only {', '.join(known)} are")
