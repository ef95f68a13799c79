"""Plan a configuration for the user's own data and write it as a config file (`--mode=plan`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxseg import config as configs
from jaxseg import described
from jaxseg.data.prepare import intensity
from jaxseg.planning import configurations, fingerprint, page
from jaxseg.train import setup
from jaxseg.types import ConfigError
from jaxseg.utils import files, output

PLANNED_WITH = (
    "structures",
    "mask_values",
    "suffixes",
    "patient",
    "ignore",
    "modalities",
    "readers",
)  # of data: how cases are read


def write(config, target: Path, look: Callable[[Any], None]) -> None:
    """Measure the training cases, choose spacing, patch and network by nnU-Net's rules, and write the config.

    Args:
      config: a resolved tree; says where the data are and how they are read.
      target: the file to write.
      look: called with a planned config; raises the errors that training with it would raise before it reads its data.
    Raises:
      ConfigError: the target exists, the data are a named data set instead of the user's own, or the plan cannot be trained.
      DataError: the data cannot be read or measured.
    """
    if target.suffix != ".py" or target.exists():
        why = "the file exists" if target.exists() else "a config file's name must end in .py"
        raise ConfigError(f"--output={target}: {why}; give another name")
    filled = described.fill(config)
    if filled.dataset is None:
        raise ConfigError(
            f"config.data.dataset={config.data.dataset!r}: --mode=plan plans for your own data; give --config=folder"
        )
    dataset, d = filled.dataset, filled.config.data
    output.say(described.describe(dataset))
    names = dataset.modalities or (("CT",) if d.intensity == "ct" or d.window else ("",)) * d.channels
    rules = [intensity.rule_by_name(name) for name in names]
    found = fingerprint.measure(dataset, samples=None if "ct_zscore" in rules else fingerprint.REPORTED)
    outputs = len(dataset.regions or dataset.labels) + 1 + (d.ignore is not None)  # nnU-Net counts the ignore label too
    planned = configurations.make(found, rules=rules, outputs=outputs, memory_gb=config.plan.memory_gb)
    given = {key: config.data[key] for key in PLANNED_WITH if config.data[key] not in (None, ())}
    regions = (tuple(config.data.regions) or setup.DATASET_REGIONS) if dataset.regions else ()
    text = page.write(page.Subject(dataset, given, regions, config.plan.memory_gb, target), found, planned)
    _check(text, target, ("", "2d") if planned.volumes else (None,), look)
    lines = page.summary(found, planned, dataset)
    for line in lines:
        output.say(line, result=True)
    files.write_atomic(target, text)
    networks = {name: one._asdict() for name, one in (("3d_fullres", planned.volumes), ("2d", planned.planes)) if one}
    output.event("plan", output=target, cases=len(found), networks=networks, facts=lines)
    output.say(f"wrote {target}; next: jaxseg train {target}", result=True)


def _check(text: str, target: Path, variants: tuple[str | None, ...], look: Callable[[Any], None]) -> None:
    """Check a planned config as training would check it before it reads the data."""
    scope: dict[str, Any] = {}
    exec(compile(text, str(target), "exec"), scope)
    for variant in variants:
        tree = scope["get_config"](*([] if variant is None else [variant]))
        look(configs.resolve(tree, name=target.stem))
