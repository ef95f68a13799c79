"""Figures of a comparison for a paper, each as PNG and SVG, with the BraTS 3-D project's file names.

learning_curves, wt_tc_et_validation_curves, wt_tc_et_summary, model_comparison_chart, parameter_efficiency,
confusion_matrix_{model}, qualitative_examples_{model}/{model}_example_NN. They need matplotlib, of the extra `report`.
"""

import csv
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.reports.cases import pictures
from jaxseg.reports.page import COLOURS, is_number
from jaxseg.utils.files import make_folder

STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "jaxseg"}
MARKERS = "osD^vP*X"
PANELS = (  # column of the results, label with its unit, what it is divided by
    ("test_dice", "test Dice", 1),
    ("val_dice", "validation Dice", 1),
    ("precision", "precision", 1),
    ("recall", "recall", 1),
    ("total_params", "parameters, millions", 1e6),
    ("flops", "multiply-accumulates, 10⁹", 1e9),
    ("pam_train", "memory of training, MiB", 2**20),
    ("pam_inference", "memory of inference, MiB", 2**20),
    ("inference_latency_ms", "latency, ms", 1),
)
DPI = 200
REGIONS = ("wt", "tc", "et")  # of BraTS
EXAMPLES = 10  # qualitative ones of a model


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write(
    folder: Path,
    results: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Path],
    show: Callable[[str], str] = str,
) -> None:
    """Write every figure for which there are numbers.

    Args:
      folder: the folder of the comparison.
      results, epochs: rows of integrated_experiment_results.csv and all_epochs_results.csv.
      evaluations: name of a model -> the folder of an evaluation of it.
      show: converts names of cases for display.
    """
    import matplotlib

    matplotlib.use("Agg")  # no window
    with matplotlib.rc_context(STYLE):
        if any(is_number(row["val_dice"]) for row in epochs):
            _save(_learning_curves(epochs), folder / "learning_curves")
        if any(is_number(row.get("val_wt", "")) for row in epochs):
            _save(_region_curves(epochs), folder / "wt_tc_et_validation_curves")
        known = [row for row in results if is_number(row["test_dice"])]
        if any(is_number(row.get("test_wt", "")) for row in known):
            _save(_region_summary(known), folder / "wt_tc_et_summary")
        if known:
            _save(_comparison_chart(known), folder / "model_comparison_chart")
            _save(_efficiency(known), folder / "parameter_efficiency")
        for model, place in evaluations.items():
            safe = pictures.file_name(model)
            if (place / "confusion.csv").is_file():
                _save(_confusion(place / "confusion.csv", model), folder / f"confusion_matrix_{safe}")
            _qualitative(place, folder / f"qualitative_examples_{safe}", safe, show)


def bars(path: Path, names: Sequence[str], values: np.ndarray, label: str) -> None:
    """Draw a bar for each column of values [N, K], with standard deviation, and a dot for each row, to path.png and path.svg."""
    figure, axes = _figure((1.2 * len(names) + 2, 3.4))
    spread = values.std(0, ddof=1) if len(values) > 1 else None
    axes.bar(range(len(names)), values.mean(0), yerr=spread, color=COLOURS[: len(names)], alpha=0.75, capsize=4, width=0.65)
    for k in range(len(names)):
        axes.plot(np.full(len(values), k), values[:, k], "o", color="black", markersize=3, alpha=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel=label, ylim=(0, 1))
    axes.grid(axis="y", alpha=0.25)
    _save(figure, path)


def histogram(path: Path, values: np.ndarray, label: str, title: str) -> None:
    """Draw a histogram of numbers in 0..1 with 40 bins to path.png and path.svg."""
    figure, axes = _figure((5, 3.4))
    axes.hist(values[np.isfinite(values)], bins=40, range=(0, 1), color=COLOURS[0])
    axes.set(xlabel=label, ylabel="channels of all cases", xlim=(0, 1), title=title)
    _save(figure, path)


def _figure(size: tuple[float, float]):
    """Return a figure with one pair of axes, in the common style, that needs no window."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(STYLE)
    return _subplots(1, 1, size)


def _learning_curves(epochs: Sequence[Mapping[str, Any]]):
    """Draw loss and validation Dice: the mean over a model's runs, and the range of its runs."""
    figure, (left, right) = _subplots(1, 2, (9, 3.6))
    for i, model in enumerate(_models(epochs)):
        mine = [row for row in epochs if row["model_name"] == model]
        for axes, key, dash in ((left, "train_loss", "--"), (left, "val_loss", "-"), (right, "val_dice", "-")):
            by_epoch: dict[int, list[float]] = {}
            for row in mine:
                if is_number(row[key]):
                    by_epoch.setdefault(int(row["epoch"]), []).append(float(row[key]))
            if by_epoch:
                x, values = zip(*sorted(by_epoch.items()))
                label = f"{model}, {'training' if key == 'train_loss' else 'validation'}" if axes is left else model
                axes.plot(x, [np.mean(v) for v in values], dash, color=COLOURS[i % len(COLOURS)], label=label)
                axes.fill_between(
                    x, [min(v) for v in values], [max(v) for v in values], color=COLOURS[i % len(COLOURS)], alpha=0.2, lw=0
                )
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9, frameon=False)
    return figure


def _region_curves(epochs: Sequence[Mapping[str, Any]]):
    """Draw validation Dice of WT, TC and ET by epoch: the mean over a model's runs, and the range of its runs."""
    figure, grid = _subplots(1, 3, (11, 3.4))
    for axes, region in zip(grid, REGIONS):
        for i, model in enumerate(_models(epochs)):
            by_epoch: dict[int, list[float]] = {}
            for row in epochs:
                if row["model_name"] == model and is_number(row[f"val_{region}"]):
                    by_epoch.setdefault(int(row["epoch"]), []).append(float(row[f"val_{region}"]))
            if by_epoch:
                x, values = zip(*sorted(by_epoch.items()))
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(x, [np.mean(v) for v in values], color=colour, label=model)
                axes.fill_between(x, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, lw=0)
        axes.set(xlabel="epoch", ylabel=f"validation Dice of {region.upper()}", ylim=(0, 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    grid[0].legend(fontsize=9, frameon=False)
    return figure


def _region_summary(results: Sequence[Mapping[str, Any]]):
    """Draw test Dice of WT, TC and ET: the mean over a model's runs, one standard deviation up and down, a dot for each run."""
    figure, axes = _subplots(1, 1, (6.5, 3.4))
    models = _models(results)
    wide = 0.8 / len(models)
    for i, model in enumerate(models):
        mine = [row for row in results if row["model_name"] == model]
        for k, region in enumerate(REGIONS):
            values = [float(row[f"test_{region}"]) for row in mine if is_number(row[f"test_{region}"])]
            if values:
                x = k + (i - (len(models) - 1) / 2) * wide
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                label = model if k == 0 else None
                look = {"color": COLOURS[i % len(COLOURS)], "alpha": 0.75, "width": 0.9 * wide, "capsize": 3}
                axes.bar(x, np.mean(values), yerr=spread, label=label, **look)
                axes.plot([x] * len(values), values, "o", color="black", markersize=3)
    axes.set_xticks(range(len(REGIONS)), [region.upper() for region in REGIONS])
    axes.set(ylabel="test Dice", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=min(3, len(models)), fontsize=9, frameon=False)
    return figure


def _comparison_chart(results: Sequence[Mapping[str, Any]]):
    """Draw a panel for each score: the mean over a model's runs, one standard deviation up and down, and a dot for each run."""
    panels = [panel for panel in PANELS if any(is_number(row[panel[0]]) for row in results)]
    models, columns = _models(results), min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = _subplots(rows, columns, (3.6 * columns + 1, (0.42 * len(models) + 1.3) * rows))
    for k, axes in enumerate(grid.flat):
        if k >= len(panels):
            axes.set_axis_off()
            continue
        key, label, unit = panels[k]
        for i, model in enumerate(models):
            values = [float(row[key]) / unit for row in results if row["model_name"] == model and is_number(row[key])]
            if values:
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                axes.barh(i, np.mean(values), xerr=spread, color=COLOURS[i % len(COLOURS)], alpha=0.75, capsize=3, height=0.65)
                axes.plot(values, [i] * len(values), "o", color="black", markersize=3.5)
        axes.set(xlabel=label, xlim=(0, 1) if unit == 1 and "latency" not in label else (0, None))
        axes.set_yticks(range(len(models)), models if k % columns == 0 else [""] * len(models))
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.25)
    return figure


def _efficiency(results: Sequence[Mapping[str, Any]]):
    """Draw test Dice against the cost of a model: the mean over its runs, one standard deviation up and down."""
    panels = [panel for panel in PANELS[4:] if any(is_number(row[panel[0]]) for row in results)]
    figure, grid = _subplots(1, len(panels), (3.6 * len(panels) + 0.6, 3.8))
    for axes, (key, label, unit) in zip(np.ravel(grid), panels):
        for i, model in enumerate(_models(results)):
            mine = [row for row in results if row["model_name"] == model and is_number(row[key])]
            if mine:
                dice = [float(row["test_dice"]) for row in mine]
                spread = np.std(dice, ddof=1) if len(dice) > 1 else 0.0
                cost = np.mean([float(row[key]) for row in mine]) / unit
                look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 8, "capsize": 3}
                axes.errorbar(cost, np.mean(dice), yerr=spread, linestyle="none", label=model, **look)
        axes.set(xscale="log", xlabel=label, ylabel="test Dice")
        axes.grid(alpha=0.25, which="both")
    np.ravel(grid)[0].legend(fontsize=9, frameon=False)
    return figure


def _confusion(path: Path, model: str):
    """Draw the fraction of each class's voxels that was predicted as each class."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    classes = [row["truth"] for row in rows]
    counts = np.array([[float(row[name]) for name in classes] for row in rows])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = max(3.6, 0.75 * len(classes) + 1.8)
    figure, axes = _subplots(1, 1, (size + 0.9, size))
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(share):
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value < 0.5 else "black", fontsize=10)
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class", title=model)
    figure.colorbar(image, ax=axes, label="share of the true class's voxels", fraction=0.046)
    return figure


def _qualitative(place: Path, folder: Path, model: str, show: Callable[[str], str]) -> None:
    """Draw input, truth and prediction of kept examples, on the slice with most true foreground."""
    index, classes = pictures.read(place)
    for number, facts in enumerate(index[:EXAMPLES], 1):
        make_folder(folder, "--workdir")
        case = pictures.Shown(facts, show(facts["case"]), "", pictures.arrays_of(place, facts))
        figure, axes = _subplots(1, 3, (9, 3.4))
        for one, layer, title in zip(axes, ("", "truth", "prediction"), ("input", "truth", "prediction")):
            one.imshow(pictures.painted(case, layer))
            one.set_axis_off()
            one.set_title(title)
        from matplotlib.patches import Patch

        handles = [Patch(color=colour, label=name) for name, colour in zip(classes, pictures.class_colours(len(classes)))]
        dice = f", Dice {facts['dice']:.3f}" if is_number(facts["dice"]) else ""
        figure.suptitle(f"{model}: {case.title}{dice}", fontsize=10)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
        _save(figure, folder / f"{model}_example_{number:02d}")


def _subplots(rows: int, columns: int, size: tuple[float, float]):
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=size, layout="constrained")


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(f"{path}.png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    figure.savefig(f"{path}.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _models(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["model_name"] for row in rows))
