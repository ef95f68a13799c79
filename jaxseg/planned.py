"""Plan a configuration for the user's own data and write it as a config file (`--mode=plan`)."""

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg import config as configs
from jaxseg import described
from jaxseg.data.prepare import intensity
from jaxseg.data.records import DataSet
from jaxseg.planning import budget, configurations, fingerprint, page
from jaxseg.train import setup
from jaxseg.types import ConfigError
from jaxseg.utils import files, output

PLANNED_WITH = (*setup.DATASET_OPTIONS, "readers")  # of data: how cases are read
FIELDS = {"3d_fullres": "volumes", "2d": "planes", "3d_lowres": "lowres"}  # of a plan


def write(config, target: Path, look: Callable[[Any], None], device: budget.Device) -> None:
    """Measure the training cases, choose spacing, patch and network by nnU-Net's rules, and write the config.

    Args:
      config: a resolved tree; says where the data are and how they are read.
      target: the file to write.
      look: called with a planned config; raises the errors that training with it would raise before it reads its data.
      device: the machine to plan for.
    Raises:
      ConfigError: the target exists, the data are slices of a named data set, or the plan cannot be trained.
      DataError: the data cannot be read or measured.
    """
    if target.suffix != ".py" or target.exists():
        why = "the file exists" if target.exists() else "a config file's name must end in .py"
        raise ConfigError(f"--output={target}: {why}; give another name")
    filled = described.fill(config)
    if filled.dataset is None and config.data.rank == 2:
        raise ConfigError(
            f"config.data.dataset={config.data.dataset!r} with data.rank=2: --mode=plan plans for volumes, and for pictures "
            "of your own; give --config=folder, or a config of volumes"
        )
    dataset, d = filled.dataset or setup.open_dataset(filled.config), filled.config.data
    output.say(described.describe(dataset))
    names = dataset.modalities or (("CT",) if d.intensity == "ct" or d.window else ("",)) * d.channels
    rules = [intensity.rule_by_name(name) for name in names]
    found = fingerprint.measure(dataset, samples=None if "ct_zscore" in rules else fingerprint.REPORTED)
    if found.pictures:  # they have no HU
        rules = ["zscore" if rule == "ct_zscore" else rule for rule in rules]
    outputs = len(dataset.regions or dataset.labels) + 1 + (d.ignore is not None)  # nnU-Net counts the ignore label too
    make = functools.partial(configurations.make, found, rules=rules, outputs=outputs)
    planned = make(memory_gb=config.plan.memory_gb or configurations.REFERENCE_GB)
    given = {key: config.data[key] for key in PLANNED_WITH if config.data[key] not in (None, ())}
    regions = (tuple(config.data.regions) or setup.DATASET_REGIONS) if dataset.regions else ()
    subject = page.Subject(dataset, Path(d.root), given, regions, device, config.plan.memory_gb, target)
    planned, measured = _measured(subject, found, planned, make)
    text = page.write(subject, found, planned, measured)
    _check(text, target, [page.ARGUMENTS[name] for name in page.variants(planned, device)] if planned.volumes else [None], look)
    lines = page.summary(found, planned, subject) + page.lengths(measured, device)
    for line in lines:
        output.say(line, result=True)
    files.write_atomic(target, text)
    networks = {name: one._asdict() for name, one in page.networks(planned, device).items()}
    output.event("plan", output=target, cases=len(found), networks=networks, facts=lines)
    output.say(f"wrote {target}; next: jaxseg train {shlex.quote(str(target))}", result=True)


def _measured(subject: page.Subject, found: fingerprint.Fingerprint, planned: configurations.DataPlan, make):
    """Fit the networks to the device: (the plan, {network: its Budget, or its Cost where the length is nnU-Net's})."""
    device, cases = subject.device, _split(subject.dataset, len(found))
    measured: dict[str, budget.Budget | budget.Cost] = {}
    names = list(page.networks(planned, device))
    allowance = budget.Allowance(len(names))
    for name in names if device.minutes or device.memory else ():
        cost = functools.partial(_cost, subject, found, planned, name, cases)
        network = functools.partial(_network, make, FIELDS[name], device)
        if device.minutes:
            one, measured[name] = budget.to_minutes(
                network, cost, cases, device.minutes, memory_gb=device.first_gb, allowance=allowance
            )
        else:
            one, measured[name] = budget.to_memory(network, cost, device.first_gb, device.memory, allowance=allowance)
        planned = planned._replace(**{FIELDS[name]: one})
    return planned, measured


def _network(make, field: str, device: budget.Device, memory_gb: float) -> configurations.Network:
    network = getattr(make(memory_gb=memory_gb, width=device.first_width), field)
    return network._replace(batch_dice=field == "planes" or network.shrunk) if device.minutes else network


def _cost(subject: page.Subject, found, planned, name: str, cases, network: configurations.Network) -> budget.Cost:
    """Compile and time the training step of a network, with the plan that it would have."""
    device, dataset = subject.device, subject.dataset
    guess = {name: budget.length(budget.Cost(0, 1, 0), network, cases, device.minutes)} if device.minutes else {}
    text = page.write(subject, found, planned._replace(**{FIELDS[name]: network}), guess)
    tree = _tree(text, subject.file, page.ARGUMENTS[name] if planned.volumes else None)
    filled = described.fill(configs.resolve(tree, name=subject.file.stem))
    output.say(f"compiling and timing a training step of {name}: patch {' x '.join(map(str, network.patch))}")
    return device.cost(filled.config, dataset.labels, dataset.regions)


def _split(dataset: DataSet, count: int) -> tuple[float, float, float]:
    """Return the number of cases to train, validate and test on, as the planned config divides them."""
    if dataset.held_out or dataset.fixed_split:
        return 0.8 * count, 0.2 * count, len([case for case in dataset.cases if case.mask is not None]) - count
    return 0.7 * count, 0.1 * count, 0.2 * count


def _tree(text: str, target: Path, variant: str | None):
    scope: dict[str, Any] = {}
    exec(compile(text, str(target), "exec"), scope)
    return scope["get_config"](*([] if variant is None else [variant]))


def _check(text: str, target: Path, variants: Sequence[str | None], look: Callable[[Any], None]) -> None:
    """Check a planned config as training would check it before it reads the data."""
    for variant in variants:
        look(configs.resolve(_tree(text, target, variant), name=target.stem))
