"""Write a plan as a config file of at most 60 lines, with a reason beside every choice; and as lines to print."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.data.records import DataSet
from jaxseg.planning.configurations import BATCH_SHARE, MASKED, DataPlan, Network
from jaxseg.planning.fingerprint import Fingerprint

BATCHES = 250  # of an epoch of nnU-Net's
FLAT = 3  # ratio of a patch's longest side to its first, above which nnU-Net turns it in its plane alone
SQUARE = 1.5  # ratio of a plane's sides up to which it is turned by any angle


class Subject(NamedTuple):
    """The data set and the options of a plan.

    Attributes:
      dataset: the data set.
      given: further keys of config.data that say how the data set is read, besides data.dataset and data.root.
      regions: data.regions if regions are trained instead of classes, else ().
      memory_gb: GPU memory that the plan may use.
      file: name of the config file, for the commands in it.
    """

    dataset: DataSet
    given: Mapping[str, Any]
    regions: tuple
    memory_gb: float
    file: Path


def write(subject: Subject, found: Fingerprint, plan: DataPlan) -> str:
    """Return the text of the config file: get_config() is 3d_fullres, get_config("2d") is 2d; for pictures there is only 2d."""
    networks = [n for n in (("3d_fullres", plan.volumes), ("2d", plan.planes)) if n[1] is not None]
    lines = [f'"""{_headline(subject, found)}', ""]
    for name, _ in networks:
        command = f"jaxseg train {subject.file}{'' if name == networks[0][0] else ':' + name}"
        lines.append(f"    {command:<44}  # {name}: {_what(name, found)}")
    lines += ["", *_notes(plan, found), '"""', ""]
    lines += ["from configs._arguments import parse"] if len(networks) > 1 else []
    lines += [
        "from configs._brats import NNUNET_AUGMENT, deep_supervision",
        "from configs._nnunet import get_config as trainer",
        "",
        "",
    ]
    body = [
        "c = trainer()  # SGD 1e-2 with Nesterov momentum 0.99, poly 0.9, gradients clipped at 12, 1000 epochs; a third of the"
    ]
    body += [
        "# patches on foreground; windows that overlap by half, averaged over mirrored ones: nnU-Net's trainer and predictor"
    ]
    body += _of_the_data(subject, found, plan)
    if len(networks) == 1:
        lines += ["def get_config():"]
        body += _of_the_network("2d", plan.planes, found, plan)
    else:
        lines += ['def get_config(arguments: str = ""):']
        body += ["c.variant = arguments", 'if "2d" in parse(arguments, flags=("2d",)).flags:']
        body += [f"    {line}" for line in _of_the_network("2d", plan.planes, found, plan)]
        body += ["else:", *(f"    {line}" for line in _of_the_network("3d_fullres", plan.volumes, found, plan))]
    body += _of_the_loss(subject) + ["return c"]
    return "\n".join([*lines, *(f"    {line}" for line in body), ""])


def summary(found: Fingerprint, plan: DataPlan, dataset: DataSet) -> list[str]:
    """Return the fingerprint and the plan as text lines, one for each fact."""
    unit = "pixels" if found.pictures else "voxels"
    lines = [
        f"fingerprint of {len(found)} training cases: {found.channels} channels, sizes {_range(found.shapes)} {unit}"
        + ("" if found.pictures else f", spacing {_range(found.spacings)} mm")
        + f" ({_axes(found)}), {plan.median_kept:.0%} of an image (median) inside the box around its non-zero values"
    ]
    names = dataset.modalities or tuple(f"channel {c}" for c in range(found.channels))
    for name, values in zip(names, found.intensities):
        lines.append(
            f"foreground of {name}: mean {values.mean:.5g}, standard deviation {values.std:.5g}, 0.5 % below {values.low:.5g}, "
            f"0.5 % above {values.high:.5g}, range {values.least:.5g} to {values.most:.5g}"
        )
    lines += [f"class {c.name}: in {c.cases} of {len(found)} cases, {c.voxels:,} {unit}" for c in found.classes]
    for name, network in (("3d_fullres", plan.volumes), ("2d", plan.planes)):
        if network is not None:
            at = "" if found.pictures else f" at {_by(network.spacing)} mm"
            lines.append(f"{name}: patch {_by(network.patch)}{at}, batch {network.batch}, {len(network.widths)} stages")
    return lines + [_cascade(plan)] * (plan.volumes is not None)


def _headline(subject: Subject, found: Fingerprint) -> str:
    place = subject.dataset.root.resolve().name
    return f"{place[:40]}, planned by nnU-Net's rules for {subject.memory_gb:g} GB: {len(found)} training cases."


def _what(name: str, found: Fingerprint) -> str:
    if found.pictures:
        return "patches of the pictures"
    return "patches of the volumes" if name == "3d_fullres" else "slices across the first axis"


def _notes(plan: DataPlan, found: Fingerprint) -> list[str]:
    if found.pictures:
        order, cascade = "Sizes are (height, width).", ""
    else:
        order = f"Sizes are in the order of the network's axes: {' '.join('zyx'[axis] for axis in plan.forward)} of the files."
        cascade = " Volumes of one slice: only 2d is planned." if plan.volumes is None else f" {_cascade(plan)}."
    memory = "Memory is nnU-Net's estimate. Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning."
    return [order + cascade, memory]


def _cascade(plan: DataPlan) -> str:
    if plan.lowres is None:
        return "nnU-Net would not plan 3d_lowres for these data"
    return f"nnU-Net would add 3d_lowres (patch {_by(plan.lowres)}) and its cascade; they are not planned here"


def _of_the_data(subject: Subject, found: Fingerprint, plan: DataPlan) -> list[str]:
    """Return the lines that both networks share."""
    dataset, rules = subject.dataset, plan.rules
    lines = [f"c.data.dataset, c.data.root = {_code(dataset.name)}, {_code(str(dataset.root.resolve()))}"]
    lines += [f"c.data.{key} = {_code(value)}  # as given to the planner" for key, value in subject.given.items()]
    lines += [f"c.data.channels = {found.channels}  # as many as the images have"]
    if found.pictures:
        lines += ['c.data.rank, c.data.axes, c.data.orientation, c.data.nonzero = 2, (), "lps", False  # pictures']
        lines += ['c.data.filter = "linear"  # the default: nothing is resampled']
    else:
        lines += [
            f"c.data.axes = {tuple(2 - axis for axis in plan.forward)}  # the files' axes in reverse order, the coarsest first"
        ]
    lines += [f"c.data.intensity = {_code(_joined(rules))}  # {_why_intensity(rules, dataset, plan.median_kept)}"]
    if "ct_zscore" in rules:
        values = tuple(tuple(float(f"{v:.7g}") for v in values[:4]) for values in found.intensities)
        lines += ["# percentiles 0.5 and 99.5, mean and standard deviation of the foreground"]
        lines += [f"c.data.statistics = {_code(values)}"]
    if dataset.held_out or dataset.fixed_split:
        why = "as nnU-Net's folds; the test split is the data set's own"
        lines += [f'c.data.split, c.data.fractions = "auto", (0.8, 0.2, 0.0)  # {why}']
    else:
        lines += ['c.data.split = "auto"  # 70 % train, 10 % choose the checkpoint, 20 % test (nnU-Net keeps no test cases)']
    lines += ["c.train.eval_every = 10  # epochs: a validation segments whole images"]
    return lines


def _of_the_loss(subject: Subject) -> list[str]:
    """Return the lines about the loss; they use the variables batch_dice and levels of a network's lines."""
    if subject.regions:
        term, lines = "dice", ['c.loss.terms = (("dice", 1.0), ("bce", 1.0))  # regions: one sigmoid each']
        lines += [f"c.data.regions = {_code(subject.regions)}"]
    else:
        term, lines = "nnunet", ['c.loss.terms = (("nnunet", 1.0),)  # cross-entropy and Dice of the foreground, 1:1']
        if len(subject.dataset.labels) == 1:
            lines += ["c.model.softmax = True  # nnU-Net's networks have an output for the background too"]
    return [
        *lines,
        f'c.loss.options = {{"{term}": {{"batch": batch_dice}}}}',
        "deep_supervision(c, levels)  # a loss on every level but the coarsest, half the weight of the next finer one",
    ]


def _joined(rules: tuple[str, ...]) -> str:
    return rules[0] if len(set(rules)) == 1 else "+".join(rules)


def _why_intensity(rules: tuple[str, ...], dataset: DataSet, kept: float) -> str:
    """Return the reason for the intensity preparation."""
    by = (
        f"by the channel names {', '.join(dataset.modalities)}"[:60]
        if dataset.modalities
        else "values of CT"
        if "ct_zscore" in rules
        else "not CT"
    )
    if any(rule.endswith("_nonzero") for rule in rules):
        return f"{by}; over non-zero voxels, {kept:.0%} of a scan, which is less than {MASKED:.0%}"
    return by


def _of_the_network(name: str, network: Network, found: Fingerprint, plan: DataPlan) -> list[str]:
    """Return the lines of one network."""
    flat, axes = name == "2d" and not found.pictures, len(network.patch)
    lead = lambda values, first: (first,) * flat + tuple(values)
    each = lambda values: tuple(lead(v, 1) for v in values)
    patch = "the largest that fits into memory" if network.shrunk else f"the median image, {_by(network.median)}, padded"
    per_case = -(-BATCHES * network.batch // len(found))
    spacing = "()" if found.pictures else lead(network.spacing, 0.0)
    lines = [
        f"c.data.spacing = {spacing}  # {'pictures keep their pixels' if found.pictures else _why_spacing(flat, plan)}",
        f"c.data.size = {lead(network.patch, 1)}  # {patch}",
        f"c.train.batch_size = {network.batch}  # the largest that fits; at least 2, at most {BATCH_SHARE:.0%} of all voxels",
        f"c.data.per_volume = {per_case}  # patches per case: about {BATCHES} batches per epoch, as in nnU-Net",
        "c.model.options = {  # axes are halved until fewer than 8 voxels are left; coarse axes start later",
        f'    "widths": {network.widths},',
        f'    "strides": {each(network.strides)},',
        f'    "kernels": {each(network.kernels)},',
        "}",
        f"batch_dice, levels = {network.batch_dice}, {len(network.widths) - 1}  # Dice of {_why_dice(name, network.batch_dice)}",
    ]
    if axes == 2 or max(network.patch) / network.patch[0] > FLAT:
        degrees = (-180.0, 180.0) if axes == 3 or max(network.patch) / min(network.patch) <= SQUARE else (-15.0, 15.0)
        options = {"degrees": degrees} | ({} if found.pictures else {"axes": ("d",)})
        why = "only in the plane"
        lines += [f'c.train.augment = (("rotate", 0.2, {_code(options)}), *NNUNET_AUGMENT[1:])  # {why}']
    if axes == 2:
        lines += [f"c.infer.mirror = {(1, 2) if flat else (0, 1)}  # the axes of a slice"]
    return lines


def _why_spacing(flat: bool, plan: DataPlan) -> str:
    if flat:
        return "mm: the median in the plane; 0: slices are not resampled"
    return f"mm: the median{'; for the coarsest axis the 10th percentile' * plan.coarse}"


def _why_dice(name: str, batch: bool) -> str:
    if name == "2d":
        return "the whole batch: slices are often without foreground"
    return "the whole batch: a patch is a small part of a volume" if batch else "each patch: it is a large part of a volume"


def _code(value) -> str:
    """Return a value as Python code in this project's style."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_code, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_code(k)}: {_code(v)}' for k, v in value.items())}}}"
    return repr(value)


def _by(numbers) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)


def _axes(found: Fingerprint) -> str:
    return "height, width" if found.pictures else "z, y, x"


def _range(values) -> str:
    return " x ".join(
        f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in zip(values.min(0), values.max(0))
    )
