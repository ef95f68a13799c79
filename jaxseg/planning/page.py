"""Write a plan as a config file of at most 80 lines, with a reason beside every choice; and as lines to print."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.data import datasets
from jaxseg.data.check import sides
from jaxseg.data.records import DataSet
from jaxseg.planning.budget import OVERLAP, VALIDATIONS, WIDTH, Budget, Cost, Device
from jaxseg.planning.configurations import (
    BATCH_SHARE,
    FIRST_WIDTH,
    LOWRES,
    MASKED,
    REFERENCE_GB,
    STAGE_AUGMENT,
    DataPlan,
    Network,
)
from jaxseg.planning.fingerprint import Fingerprint

BATCHES = 250  # of an epoch of nnU-Net's
FLAT = 3  # ratio of a patch's longest side to its first, above which nnU-Net turns it in its plane alone
SHARES = "70 % train, 10 % choose the checkpoint, 20 % test"
CHEAP = ("rotate", "scale", "brightness", "mirror")  # transforms of a short training
ARGUMENTS = {"3d_fullres": "", "2d": "2d", "3d_lowres": "lowres", "3d_cascade_fullres": "cascade"}  # of the config file
SQUARE = 1.5  # ratio of a plane's sides up to which it is turned by any angle


class Subject(NamedTuple):
    """The data set and the options of a plan.

    Attributes:
      dataset: the data set.
      root: data.root, the folder or table.
      given: further keys of config.data that say how the data set is read, besides data.dataset and data.root.
      regions: data.regions if regions are trained instead of classes, else ().
      device: the machine that the plan is for.
      memory_gb: memory of another GPU that the plan is for, GB; None: it is for `device`.
      file: name of the config file, for the commands in it.
    """

    dataset: DataSet
    root: Path
    given: Mapping[str, Any]
    regions: tuple
    device: Device
    memory_gb: float | None
    file: Path


Measured = Mapping[str, Budget | Cost]  # of each network that was compiled on the device


def networks(plan: DataPlan, device: Device) -> dict[str, Network]:
    """Return the planned networks by nnU-Net's names. The first stage of a cascade is not for a short training."""
    lowres = None if device.minutes else plan.lowres
    planned = (("3d_fullres", plan.volumes), ("2d", plan.planes), ("3d_lowres", lowres))
    return {name: one for name, one in planned if one is not None}


def variants(plan: DataPlan, device: Device) -> list[str]:
    """Return nnU-Net's names of what the config file can train: its networks, and the second stage of a cascade."""
    names = list(networks(plan, device))
    return names + ["3d_cascade_fullres"] * ("3d_lowres" in names)


def write(subject: Subject, found: Fingerprint, plan: DataPlan, measured: Measured) -> str:
    """Return the text of the config file: get_config() is 3d_fullres, get_config("2d") is 2d; for pictures there is only 2d.

    Where nnU-Net plans a cascade, get_config("lowres") is its first stage and get_config("cascade") its second.
    """
    names = variants(plan, subject.device)
    lines = [_headline(subject, found), ""]
    for name in names:
        command = "jaxseg train " + shlex.quote(f"{subject.file}{'' if name == names[0] else ':' + ARGUMENTS[name]}")
        lines.append(f"    {command:<44}  # {name}: {_what(name, found)}")
    lines += ["", *_notes(subject, plan, found, measured)]
    head = "\n".join(lines).replace("\\", "/").replace('"""', "'")  # names of folders may hold anything
    lines = [f'"""{head}', '"""', ""]
    lines += ["from configs._arguments import parse"] if len(names) > 1 else []
    lines += [
        f"from configs._brats import {', '.join(_helpers(found))}",
        "from configs.nnunet import get_config as trainer",
        "",
        "",
    ]
    body = [
        "c = trainer()  # SGD 1e-2 with Nesterov momentum 0.99, poly 0.9, gradients clipped at 12, 1000 epochs; a third of the",
        "# patches on foreground; windows that overlap by half, averaged over mirrored ones: nnU-Net's trainer and predictor",
    ]
    if subject.device.minutes:
        body = ["c = trainer()  # nnU-Net's trainer and predictor; the last lines replace what takes more time than there is"]
    body += _of_the_data(subject, found, plan)
    if len(names) == 1:
        lines += ["def get_config():"]
        body += _of_the_network("2d", plan.planes, found, plan, measured)
    else:
        lines += ['def get_config(arguments: str = ""):']
        others = tuple(ARGUMENTS[name] for name in names[1:])
        body += ["c.variant = arguments", f"chosen = parse(arguments, sizes={_code(others)}).size"]
        for name, network in [*networks(plan, subject.device).items()][::-1]:  # 3d_fullres is the last
            first = "el" * (name == "2d" and len(names) > 2)
            body += [f'{first}if chosen == "{ARGUMENTS[name]}":' if ARGUMENTS[name] else "else:"]
            body += [f"    {line}" for line in _of_the_network(name, network, found, plan, measured)]
        body += _of_the_second_stage(subject) if len(names) > 2 else []
    body += _of_the_sides(subject, found, plan)
    body += _of_the_loss(subject) + (_of_a_short_training() if subject.device.minutes else []) + ["return c"]
    return "\n".join([*lines, *(f"    {line}" for line in body), ""])


def summary(found: Fingerprint, plan: DataPlan, subject: Subject) -> list[str]:
    """Return the fingerprint and the plan as text lines, one for each fact."""
    unit = "pixels" if found.pictures else "voxels"
    lines = [
        f"fingerprint of {len(found)} training cases: {found.channels} channels, sizes {_range(found.shapes)} {unit}"
        + ("" if found.pictures else f", spacing {_range(found.spacings)} mm")
        + f" ({_axes(found)}), {plan.median_kept:.0%} of an image (median) inside the box around its non-zero values"
    ]
    names = subject.dataset.modalities or tuple(f"channel {c}" for c in range(found.channels))
    for name, values in zip(names, found.intensities):
        lines.append(
            f"foreground of {name}: mean {values.mean:.5g}, standard deviation {values.std:.5g}, 0.5 % below {values.low:.5g}, "
            f"0.5 % above {values.high:.5g}, range {values.least:.5g} to {values.most:.5g}"
        )
    lines += [f"class {c.name}: in {c.cases} of {len(found)} cases, {c.voxels:,} {unit}" for c in found.classes]
    for name, network in networks(plan, subject.device).items():
        at = "" if found.pictures else f" at {_by(network.spacing)} mm"
        lines.append(f"{name}: patch {_by(network.patch)}{at}, batch {network.batch}, {len(network.widths)} stages")
    return lines + [_cascade(plan, subject)] * (plan.volumes is not None)


def lengths(measured: Measured, device: Device) -> list[str]:
    """Return the measured steps, and how many of them fit into the minutes, as text lines."""
    lines = []
    for name, one in measured.items():
        cost = one.cost if isinstance(one, Budget) else one
        planned = f"{one.steps} steps in {one.minutes:g} minutes; " if isinstance(one, Budget) else ""
        lines.append(
            f"{name} on {device.name}: {planned}a step takes {cost.step:.2g} s, {_gigabytes(cost.memory)} by XLA's figure, and "
            f"compiles in {cost.compilation:.0f} s, measured"
        )
    return lines


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB"


def _headline(subject: Subject, found: Fingerprint) -> str:
    place, device = subject.root.resolve().name, subject.device
    whom = f"{subject.memory_gb or REFERENCE_GB:g} GB"
    if device.minutes:
        whom = f"{device.minutes:g} minutes on {'a CPU' if device.cpu else device.name}"
    return f"{place[:40]}, planned by nnU-Net's rules for {whom}: {len(found)} training cases."


def _helpers(found: Fingerprint) -> list[str]:
    """Return the names that the config imports from configs/_brats.py."""
    return ["NNUNET_AUGMENT", "deep_supervision"] if found.pictures else ["deep_supervision", "in_plane"]


def _what(name: str, found: Fingerprint) -> str:
    if found.pictures:
        return "patches of the pictures"
    return {
        "3d_fullres": "patches of the volumes",
        "2d": "slices across the first axis",
        "3d_lowres": "patches of coarser volumes, the cascade's first stage",
        "3d_cascade_fullres": "the second stage, beside the first one's labels",
    }[name]


def _notes(subject: Subject, plan: DataPlan, found: Fingerprint, measured: Measured) -> list[str]:
    if found.pictures:
        order, cascade = "Sizes are (height, width).", []
    else:
        order = f"Sizes are in the order of the network's axes: {' '.join('zyx'[axis] for axis in plan.forward)} of the files."
        cascade = ["Volumes of one slice: only 2d is planned." if plan.volumes is None else f"{_cascade(plan, subject)}."]
    memory = "Memory is nnU-Net's estimate, not measured."
    if measured:
        of = lambda one: one.cost if isinstance(one, Budget) else one
        figures = ", ".join(f"{_gigabytes(of(one).memory)} ({name})" for name, one in measured.items())
        memory = f"Memory by XLA's figure of the step here: {figures}."
    notes = [order, *cascade, f"{memory} Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning."]
    if subject.device.minutes:
        notes += ["A longer training gives more: --config.plan.minutes=60; nnU-Net's own 1000 epochs, for a GPU: =0."]
    return notes


def _cascade(plan: DataPlan, subject: Subject) -> str:
    if plan.lowres is None:
        return "nnU-Net would not plan 3d_lowres for these data"
    if subject.device.minutes:
        return "nnU-Net would add 3d_lowres and its cascade, two trainings; --config.plan.minutes=0 plans them"
    share = math.prod(plan.volumes.patch) / math.prod(plan.volumes.median)
    return f"nnU-Net plans a cascade, because a patch of 3d_fullres covers {share:.0%} of the median volume"


def _of_the_data(subject: Subject, found: Fingerprint, plan: DataPlan) -> list[str]:
    """Return the lines that both networks share."""
    dataset, rules = subject.dataset, plan.rules
    lines = [f"c.data.dataset, c.data.root = {_code(dataset.name)}, {_code(str(subject.root.resolve()))}"]
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
    if not datasets.is_own(dataset.name):
        lines += [
            f"c.data.split = {_code('fixed' if dataset.fixed_split else 'patient')}  # {SHARES} unless the data set says which"
        ]
    elif dataset.held_out or dataset.fixed_split:
        why = "as nnU-Net's folds; the test split is the data set's own"
        lines += [f'c.data.split, c.data.fractions = "auto", (0.8, 0.2, 0.0)  # {why}']
    else:
        lines += [f'c.data.split = "auto"  # {SHARES} (nnU-Net keeps no test cases)']
    if not subject.device.minutes:
        lines += ["c.train.eval_every = 10  # epochs: a validation segments whole images"]
    return lines


def _of_the_sides(subject: Subject, found: Fingerprint, plan: DataPlan) -> list[str]:
    """Return the lines that leave left and right alone where classes are named by their side."""
    if not sides.paired(subject.dataset.labels):
        return []
    axis = 1 if found.pictures else plan.forward.index(2)
    others = tuple(letter for k, letter in enumerate("hw" if found.pictures else "dhw") if k != axis)
    return [
        f'kept = ("mirror", 0.5, {{"axes": {_code(others)}}})  # not left and right: classes are named by their side',
        'c.train.augment = tuple(kept if t[0] == "mirror" else t for t in c.train.augment)',
        f"c.infer.mirror = tuple(axis for axis in c.infer.mirror if axis != {axis})",
    ]


def _of_a_short_training() -> list[str]:
    """Return the lines that replace nnU-Net's trainer where minutes are few; they use the variable steps of a network's lines."""
    return [
        'c.optim.name, c.optim.lr, c.optim.options = "adamw", 2e-3, {}  # hundreds of steps suffice; SGD needs many thousands',
        "c.optim.weight_decay, c.optim.clip_norm, c.data.foreground = 0.01, 1.0, 0.5  # every other patch on foreground",
        'c.schedule.name, c.schedule.options, c.schedule.warmup = "cosine", {}, max(1, steps // 20)  # to 0 at the end',
        "c.train.alarm_after = 2  # validations without any foreground before the log says so",
        f"c.train.augment = tuple(t for t in c.train.augment if t[0] in {_code(CHEAP)})  # cheap ones",
        f"c.infer.overlap, c.infer.mirror = {OVERLAP}, ()  # mirrored windows take up to eight times as long",
    ]


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


def _of_the_second_stage(subject: Subject) -> list[str]:
    """Return the lines that make 3d_fullres the second stage of a cascade."""
    run = f"runs/{subject.file.stem}-{ARGUMENTS['3d_lowres']}"
    return [
        f'if chosen == "{ARGUMENTS["3d_cascade_fullres"]}":',
        f"    c.data.previous = ({_code(run)},)  # the first stage's run, or those of several folds (data.split=fold)",
        "    # the first stage errs less on its training cases than on new ones: its labels are altered, as in nnU-Net",
        f"    c.train.augment = (*c.train.augment, *{_code(STAGE_AUGMENT)})",
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


def _of_the_network(name: str, network: Network, found: Fingerprint, plan: DataPlan, measured: Measured) -> list[str]:
    """Return the lines of one network."""
    flat, axes = name == "2d" and not found.pictures, len(network.patch)
    lead = lambda values, first: (first,) * flat + tuple(values)
    each = lambda values: tuple(lead(v, 1) for v in values)
    patch = "the largest that fits into memory" if network.shrunk else f"the median image, {_by(network.median)}, padded"
    per_case, why_so_many = -(-BATCHES * network.batch // len(found)), f"about {BATCHES} batches per epoch, as in nnU-Net"
    length = measured.get(name)
    if isinstance(length, Budget):
        per_case, why_so_many = length.per_volume, f"about {length.steps // length.epochs} batches per epoch"
    spacing = "()" if found.pictures else lead(network.spacing, 0.0)
    narrow = f"; {WIDTH} channels, not {FIRST_WIDTH}" if network.widths[0] == WIDTH else ""
    lines = [
        f"c.data.spacing = {spacing}  # {'pictures keep their pixels' if found.pictures else _why_spacing(name, flat, plan)}",
        f"c.data.size = {lead(network.patch, 1)}  # {patch}",
        f"c.train.batch_size = {network.batch}  # the largest that fits; at least 2, at most {BATCH_SHARE:.0%} of all voxels",
        f"c.data.per_volume = {per_case}  # patches per case: {why_so_many}",
        f"c.model.options = {{  # axes are halved until fewer than 8 voxels are left; coarse axes start later{narrow}",
        f'    "widths": {network.widths},',
        f'    "strides": {each(network.strides)},',
        f'    "kernels": {each(network.kernels)},',
        "}",
        f"batch_dice, levels = {network.batch_dice}, {len(network.widths) - 1}  # Dice of {_why_dice(name, network.batch_dice)}",
    ]
    if axes == 2 or max(network.patch) / network.patch[0] > FLAT:
        degrees = (-180.0, 180.0) if axes == 3 or max(network.patch) / min(network.patch) <= SQUARE else (-15.0, 15.0)
        if found.pictures:
            rotation = _code(("rotate", 0.2, {"degrees": degrees}))
            lines += [f"c.train.augment = ({rotation}, *NNUNET_AUGMENT[1:])"]
        else:
            lines += [f"in_plane(c, {degrees})  # rotation, scaling and coarsening within slices: they are thick"]
    if isinstance(length, Budget):
        every = max(1, length.epochs // VALIDATIONS)
        lines += [
            f"c.train.epochs, c.train.eval_every, steps = {length.epochs}, {every}, {length.steps}"
            f"  # a step of {length.cost.step:.2g} s here, measured: {length.minutes:g} minutes"
        ]
    elif axes == 2:
        lines += [f"c.infer.mirror = {(1, 2) if flat else (0, 1)}  # the axes of a slice"]
    return lines


def _why_spacing(name: str, flat: bool, plan: DataPlan) -> str:
    if flat:
        return "mm: the median in the plane; 0: slices are not resampled"
    if name == "3d_lowres":
        return f"mm: a patch covers {LOWRES:.0%} of the median image"
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
