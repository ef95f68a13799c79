"""Weights that a network's attention gives to modalities and to channels, on the test cases of a run.

modality_attention_<model>.csv            a row for each case: the factor of each modality, mean over the network's stages
modality_attention_summary_<model>.csv    mean and standard deviation over the cases, and as a figure (.png, .svg)
channel_attention_summary_<model>.csv     mean and standard deviation of each channel's gate: of channel attention,
se_excitation_summary_<model>.csv         and of squeeze and excitation; each with a histogram (.png, .svg)

A factor is a sigmoid of its own: those of a case do not sum to one. One input per case is used: the window in the middle of the
volume, or the middle slice. Source: the BraTS 3-D project's files of these names.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import checkpoint
from jaxseg.data.geometry import cut
from jaxseg.data.records import Volume
from jaxseg.data.store import base
from jaxseg.infer.network import Windows
from jaxseg.infer.run import Run, alone, open_run
from jaxseg.metrics.summarize import write_csv
from jaxseg.models.functional import ForwardContext, Network, Tap, layers_of
from jaxseg.ops import coordinates
from jaxseg.ops.image import standardise, to_float
from jaxseg.reports import paper
from jaxseg.reports.cases.pictures import file_name
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import Array

CHANNELS = {
    "channel_attention_summary": ("ChannelAttention", "channel attention"),
    "se_excitation_summary": ("SqueezeExcite", "squeeze and excitation"),
}
EXPAND = ".se_expand"  # EffiSegNet's blocks hold their excitation themselves
SUMMARY = "modality_attention_summary"


def layers(network: Network, params: Mapping, state: Mapping) -> dict[str, list[str]]:
    """{"modality" or a key of CHANNELS: names of the layers with such weights} of a network; kinds that it lacks are left out."""
    found: dict[str, list[str]] = {}
    for name, layer in layers_of(jax.eval_shape(network.merge, dict(params), dict(state))).items():
        kind = type(layer).__name__
        if kind == "ModalityAttention":
            found.setdefault("modality", []).append(f"{name}.fc2")
        for key, (wanted, _) in CHANNELS.items():
            if kind == wanted or key == "se_excitation_summary" and name.endswith(EXPAND):
                found.setdefault(key, []).append(name)
    return found


def gates(run: Run, tapped: Mapping[str, Sequence[str]], image: np.ndarray) -> dict[str, np.ndarray]:
    """{name of a layer: its factors [C]} for one input [*S, C]; NaN for a channel that is 0 everywhere.

    Args:
      run: an opened run.
      tapped: from `layers`.
      image: prepared, of the network's size.
    """
    names = tuple(name for kind in tapped.values() for name in kind)
    found = _gates(run.application.forward.network, names, *run.weights[0], _input(run, image))
    return {name: np.asarray(value) for name, value in found.items()}


def write(folder: Path, model: str, source: Path, config, show: Callable[[str], str] = str) -> list[str]:
    """Write the files of a run whose network has such layers, and return their names; existing files are not changed.

    Args:
      folder: the folder of the experiment.
      model: name of the model, for the file names.
      source: the run folder.
      config: the run's config, with all values that depend on the data.
      show: converts names of cases for display.
    """
    record = checkpoint.read_record(source)
    opened = open_run(source, {**alone(record["config"]["infer"]), "whole": False})
    tapped = layers(opened.application.forward.network, *opened.weights[0])
    safe = file_name(model)
    names = {key: f"{'modality_attention' if key == 'modality' else key}_{safe}.csv" for key in tapped}
    if all((folder / name).is_file() for name in names.values()):
        return []
    dataset = setup.load_dataset(config, Log(source, quiet=True))
    cases = [case for case in dataset.cases if case.patient in set(record["splits"]["test"])]
    by_case = {}
    for case in cases:
        images, _ = base.read_files(dataset, case)
        if record["model"]["rank"] == 3:
            images = [cut(image, case.slab) for image in images]
        by_case[case.id] = gates(opened, tapped, _middle(opened, images))
    if not by_case:
        return []
    for key, name in names.items():
        if key == "modality":
            _write_modalities(folder, safe, name, tapped[key], by_case, record["recipe"]["modalities"], show)
        else:
            _write_channels(folder, f"{key}_{safe}", tapped[key], by_case, CHANNELS[key][1], model)
    return list(names.values())


def _middle(run: Run, images: Sequence[Volume]) -> np.ndarray:
    """The prepared input [*size, C] in the middle of a case: a window, or a slice."""
    inputs = run.preparation.prepare(images).inputs
    image = np.asarray(inputs[len(inputs) // 2], np.float32)
    if isinstance(run.application, Windows) and run.application.coordinates:
        image = np.asarray(coordinates.append(image))
    size = run.recipe.size
    part = image[tuple(slice(max(m - n, 0) // 2, max(m - n, 0) // 2 + n) for m, n in zip(image.shape, size))]
    return np.pad(part, [*((0, n - m) for n, m in zip(size, part.shape)), (0, 0)])


def _input(run: Run, image: np.ndarray) -> Array:
    forward = run.application.forward
    return standardise(to_float(jnp.asarray(image[None])), forward.mean, forward.std).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gates(network: Network, names: tuple[str, ...], params: dict, state: dict, image: Array) -> dict[str, Array]:
    taps = {name: Tap() for name in names}
    network.apply(params, state, image, ForwardContext(taps=taps))
    found = {}
    for name, tap in taps.items():
        space = tuple(range(1, tap.output.ndim - 1))
        if name.endswith((".fc2", EXPAND)):  # before the sigmoid
            found[name] = jax.nn.sigmoid(tap.output).mean(space)[0]
        else:  # the gate multiplies all of a channel: the ratio of what comes out to what goes in
            energy = jnp.sum(tap.input**2, space)[0]
            found[name] = jnp.where(energy > 0, jnp.sum(tap.input * tap.output, space)[0] / energy, jnp.nan)
    return found


def _write_modalities(
    folder: Path, safe: str, file: str, names: Sequence[str], by_case: Mapping, modalities: Sequence[str] | None, show: Callable
) -> None:
    number = len(next(iter(by_case.values()))[names[0]])
    titles = [name.upper() for name in modalities or ()] or [f"CHANNEL{i}" for i in range(number)]
    means = {case: np.mean([found[name] for name in names], 0) for case, found in by_case.items()}
    write_csv(folder / file, [{"sample_id": show(case), **dict(zip(titles, map(float, m)))} for case, m in means.items()])
    values = np.stack(list(means.values()))
    rows = [
        {"modality": title, "mean_contribution": float(v.mean()), "std_contribution": float(v.std(ddof=1)) if len(v) > 1 else ""}
        for title, v in zip(titles, values.T)
    ]
    write_csv(folder / f"{SUMMARY}_{safe}.csv", rows)
    if paper.available():
        paper.bars(folder / f"{SUMMARY}_{safe}", titles, values, "factor of the modality")


def _write_channels(folder: Path, stem: str, names: Sequence[str], by_case: Mapping, title: str, model: str) -> None:
    rows, everything = [], []
    for name in names:
        values = np.stack([found[name] for found in by_case.values()])
        everything.append(values.ravel())
        rows += [
            {
                "block_name": name,
                "channel": channel,
                "mean_weight": float(v.mean()),
                "std_weight": float(v.std(ddof=1)) if len(v) > 1 else "",
            }
            for channel, v in enumerate(values.T)
        ]
    write_csv(folder / f"{stem}.csv", rows)
    if paper.available():
        paper.histogram(folder / stem, np.concatenate(everything), f"gate of a channel ({title})", model)
