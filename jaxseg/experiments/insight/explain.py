"""--mode=explain: Seg-Grad-CAM maps (`gradcam`) of what a run predicts on files, for each class or region in the prediction.

<output>/gradcam/<case>.nii.gz           a map 0..1 for each class with the case's geometry; of a picture <case>/<class>.png
<output>/gradcam/<case>_<class>.png      a slice: the image, the prediction, and the map over the image with the region's outline
<output>/explanations.html               the pictures of all cases on one page
<output>/explanations.csv                layer, slice, voxels of the region, and the share of the map inside the region

The network sees one input of its own size: the slice with the largest region, of patches the window around the region's centre.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseg.data.formats import photos
from jaxseg.data.prepare import examples as preprocess
from jaxseg.experiments.insight import gradcam
from jaxseg.infer import cases
from jaxseg.infer.examples import Examples
from jaxseg.infer.labels import labels_of
from jaxseg.infer.network import Windows
from jaxseg.infer.run import Run, alone, open_run
from jaxseg.metrics.summarize import write_csv
from jaxseg.ops import coordinates
from jaxseg.ops.image import standardise, to_float
from jaxseg.reports import explained
from jaxseg.types import ConfigError, DataError, JaxsegError
from jaxseg.utils import files
from jaxseg.utils.command import check_interrupt
from jaxseg.utils.output import working_through
from jaxseg.utils.pictures import paint, to_8bit, to_rgb

FOLDER, TABLE = "gradcam", "explanations.csv"
WARM = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)  # from cold to hot
SMALLEST = 256  # pixels of a panel's longer side; smaller slices are enlarged


class Seen(NamedTuple):
    """The part of a case that the network sees: number of the example, first voxel, and the input [*size, C]."""

    example: int
    start: tuple[int, ...]
    image: np.ndarray


def explain(
    run: Path,
    origin: Path,
    output: Path,
    *,
    settings: Mapping[str, Any],
    layer: str,
    region: str,
    threshold: float | None = None,
    say: Callable[[str], None] = print,
    show: Callable[[str], str] = str,
    megabytes: float = 25.0,
) -> int:
    """Write the maps of every case below `origin`.

    Args:
      run: run folder, or a checkpoint folder inside one.
      origin: a file or folder, as for predict.
      output: folder for the results.
      settings: the config's infer group; other runs in it are not used.
      layer: dotted name of the layer; "": the deepest feature map.
      region: over which voxels the logit is summed: those "predicted" to be of the class, or "all".
      threshold: config.eval.threshold; None: the value in the run's record.
      say: called with one line of text for each case.
      show: converts names of cases for the table and the page.
      megabytes: config.report.megabytes.
    Returns:
      0, or 65 if some cases could not be used.
    Raises:
      ConfigError: the run's network has no such layer, or the run was not trained on labels.
    """
    opened = open_run(run, {**alone(settings), "mirror": (), "whole": False}, threshold=threshold)
    data = opened.record["config"]["data"]
    if data["target"] != "labels" or data["whole"]:
        what = "whole volumes" if data["whole"] else data["target"]
        raise ConfigError(f"--mode=explain: this run was trained to predict {what}, not labels; give another run")
    cases.open_output(output)
    found, (params, state) = cases.find_cases(origin, opened.recipe, opened.record), opened.weights[0]
    network = opened.application.forward.network
    channels = opened.record["model"]["in_channels"]
    known = gradcam.outputs_of(network, params, state, (1, *opened.recipe.size, channels))
    layer = gradcam.chosen_layer(known, len(opened.recipe.size), layer)
    name = opened.record["model"]["name"]
    say(f"layer {layer} of {name}, output {known[layer]}; config.explain.layer can name {len(known)} layers")
    done: list[explained.Explained] = []
    failed = 0
    for case in working_through(found, "explaining"):
        check_interrupt()
        try:
            done += _one(opened, case, output, layer, region, say, show)
        except (JaxsegError, MemoryError) as error:
            if isinstance(error, ConfigError):
                raise
            failed += 1
            say(f"FAILED {case.name}: {error}")
        rows = [one.row for one in done]
        write_csv(output / TABLE, rows or [dict.fromkeys(("case", "class", "layer", "slice", "voxels", "inside"), "")])
    page = explained.write(output, done, name, megabytes=megabytes)
    say(f"maps of {len(found) - failed} of {len(found)} cases in {output / FOLDER}, figures in {output / TABLE}, all on {page}")
    return DataError.exit_code if failed else 0


def _one(run: Run, case, output: Path, layer: str, region: str, say: Callable, show: Callable) -> list[explained.Explained]:
    """Write the maps of one case, and return its rows of the table with their pictures."""
    images = case.read()
    examples = run.preparation.prepare(images)
    logits = run.logits(examples.inputs)
    names, forward, done, maps = cases.map_names(run.record), run.application.forward, [], []
    for (channel, mask), name in zip(_regions(run, logits), names, strict=True):
        row = {"case": show(case.name), "class": name, "layer": layer, "slice": "", "voxels": int(mask.sum()), "inside": ""}
        whole = np.zeros(examples.inputs.shape[:-1], np.float32)
        if mask.any():
            part = _part(run, examples, mask)
            image = standardise(to_float(jnp.asarray(part.image[None])), forward.mean, forward.std).astype(jnp.float32)
            here = _cut(mask[part.example], part.start, part.image.shape[:-1], False)
            over = here if region == "predicted" else np.ones_like(here)
            found = gradcam.heat(forward.network, *run.weights[0], image, layer, channel, over)
            row["inside"] = "" if math.isnan(found.inside) else float(found.map[here].sum() / found.map.sum())
            inside = tuple(slice(s, min(s + n, m)) for s, n, m in zip(part.start, found.map.shape, whole.shape[1:]))
            whole[part.example][inside] = found.map[tuple(slice(0, s.stop - s.start) for s in inside)]
        own, path = _on_own_grid(run, examples, whole), None
        if mask.any():
            labels = _on_own_grid(run, examples, mask.astype(np.float32)) >= 0.5
            z, picture = _picture(run, examples, own, labels)
            row["slice"] = int(examples.orientation.file_index(z)) if run.record["model"]["rank"] == 2 else z
            files.make_folder(output / FOLDER, f"--output={output}")
            path = output / FOLDER / f"{case.name}_{files.plain_name(name)}.png"
            files.write_atomic(path, photos.encode_png(picture, path))
        maps.append(examples.orientation.restore(own))
        done.append(explained.Explained(row, path))
    cases.write_maps(output, case.name, np.stack(maps, -1), names, images[0], folder=FOLDER)
    inside = ", ".join(
        f"{r['class']} {r['inside']:.2f}" if r["inside"] != "" else f"{r['class']} not predicted"
        for r in (one.row for one in done)
    )
    say(f"{case.name}: share of the map inside the region: {inside}")
    return done


def _regions(run: Run, logits: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return, for every map, (channel of the logits, the voxels that were predicted as its class, bool [N, *S])."""
    if run.order or logits.shape[-1] == 1:
        cut = math.log(run.threshold / (1 - run.threshold))
        return [(k, logits[..., k] >= cut) for k in range(logits.shape[-1])]
    labels = np.stack([labels_of(one, threshold=run.threshold) for one in logits])
    return [(k, labels == k) for k in range(1, logits.shape[-1])]


def _part(run: Run, examples: Examples, mask: np.ndarray) -> Seen:
    """Return the example with most of the region, as a zero-padded window around the region's centre."""
    number = int(mask.reshape(len(mask), -1).sum(1).argmax())
    image, size = np.asarray(examples.inputs[number]), tuple(run.recipe.size)  # uint8 stays: `to_float` scales it
    if isinstance(run.application, Windows) and run.application.coordinates:
        image = np.asarray(coordinates.append(np.asarray(image, np.float32)))
    centre = [round(float(c.mean())) for c in np.nonzero(mask[number])]
    start = tuple(min(max(c - n // 2, 0), max(m - n, 0)) for c, n, m in zip(centre, size, image.shape))
    return Seen(number, start, _cut(image, start, size, 0))


def _cut(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float) -> np.ndarray:
    """Cut a window along the first axes, padded at its end where the array is smaller."""
    part = array[tuple(slice(s, s + n) for s, n in zip(start, size))]
    rest = [(0, n - m) for n, m in zip(size, part.shape)] + [(0, 0)] * (array.ndim - len(size))
    return np.pad(part, rest, constant_values=fill)


def _on_own_grid(run: Run, examples: Examples, maps: np.ndarray) -> np.ndarray:
    """Resample maps [N, *S] from the network's grid to the case's own grid; 0 where the network did not see."""
    back = []
    shape, spacing = examples.shape, examples.orientation.spacing
    if run.record["model"]["rank"] == 2:
        shape, spacing = shape[1:], spacing[1:] if examples.orientation.axes else None
    for one in maps:
        if run.record["model"]["rank"] == 3 and examples.place.keeps_grid:
            back.append(one)
            continue
        back.append(preprocess.restore(one[..., None], shape, run.recipe, spacing, fill=(0.0,), place=examples.place)[..., 0])
    return np.clip(np.stack(back) if run.record["model"]["rank"] == 2 else back[0], 0, 1)


def _picture(run: Run, examples: Examples, heat: np.ndarray, labels: np.ndarray) -> tuple[int, np.ndarray]:
    """The slice with most of the region: its number, and the image, the prediction and the map side by side, uint8 [H, W, 3]."""
    scan = examples.scan
    if run.record["model"]["rank"] == 2:
        z = int(labels.sum((1, 2)).argmax())
        shown = scan[z][..., -1] if run.recipe.modalities and scan.ndim == 4 else scan[z]
        grey, heat, labels, spacing = (
            preprocess.window_8bit(shown, run.recipe),
            heat[z],
            labels[z],
            examples.orientation.spacing[1:],
        )
    else:
        z = int(labels.sum((0, 1)).argmax())
        low, high = np.percentile(scan[::2, ::2, ::2], (1, 99.5))
        grey, heat, labels = to_8bit(scan[:, :, z].T, float(low), float(high)), heat[:, :, z].T, labels[:, :, z].T
        spacing = examples.orientation.spacing[1::-1]
    rgb = to_rgb(grey)
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        edge |= labels & ~np.roll(labels, 1, axis) | labels & ~np.roll(labels, -1, axis)
    share = 0.75 * heat[..., None]
    warm = np.stack([np.interp(heat, np.linspace(0, 1, len(WARM)), WARM[:, c]) for c in range(3)], -1)
    over = np.where(edge[..., None], 255, (1 - share) * rgb + share * warm).astype(np.uint8)
    row = np.concatenate([rgb, paint(rgb, labels.astype(np.uint8)), over], 1)
    larger = max(1, SMALLEST // max(labels.shape))
    ratio = spacing[0] / spacing[1] if min(spacing) > 0 else 1.0
    down, right = (larger * max(1, round(ratio)), larger) if ratio >= 1 else (larger, larger * max(1, round(1 / ratio)))
    return z, np.ascontiguousarray(row.repeat(down, 0).repeat(right, 1))
