"""jaxseg zoo --measure NAME...: what networks, or those of runs, cost on this device, in the columns of a comparison.

Each network is measured in a process of its own, so that a device's peak is its own. `macs_printed` is the multiply-accumulates
as torchprofile counts them, `mega_bytes` the size of the parameters in float32.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxseg import checkpoint
from jaxseg.experiments import measures
from jaxseg.metrics.summarize import write_csv
from jaxseg.models import summary
from jaxseg.models.base import Segmenter
from jaxseg.models.registry import create_model, variants
from jaxseg.ops.precision import compute_dtype
from jaxseg.types import ConfigError
from jaxseg.utils import code, output
from jaxseg.utils.lookup import lookup

FIRST = "model_name total_params flops pam_train pam_inference inference_latency_ms".split()  # as the BraTS 3-D project has them
COLUMNS = FIRST + "latency_median_ms latency_p95_ms latency_p99_ms macs_printed mega_bytes pam_train_of_batch".split()
COLUMNS += "pam_inference_of_batch batch device_peak runs device dtype shape".split()
SIZES = {2: (128, 128), 3: (64, 64, 64)}  # of the input where none is given


def measure(name: str, size: Sequence[int], *, batch: int, channels: int, classes: int, dtype: str) -> dict[str, Any]:
    """Measure one network in this process, and return its row of the table.

    Args:
      name: name of the network, or a run folder, from which everything but the batch size is then taken.
      size: size of the input's spatial axes; (): SIZES.
      batch: a batch size at which memory is measured besides batch size 1.
      channels, classes: channels of the input and number of logits; 0: the network's defaults.
      dtype: a value of train.dtype.
    Raises:
      ConfigError: no such network, or it does not take this size.
    """
    if _is_run(name):
        record = checkpoint.read_record(Path(name))
        about, config = record["model"], record["config"]
        shape = (1, *config["data"]["size"], about["in_channels"])
        given = {key: about[key] for key in ("in_channels", "num_classes", "rank")}
        with code.recorded_alone():
            code.check(record["code"], Path(name))
            model = create_model(about["name"], **given, **about["options"])
        return _row(about["name"], model, shape, batch, config["train"]["dtype"])
    variant = lookup("network", name, variants())
    rank = len(size) or variant.ranks[0]
    if rank not in variant.ranks:
        raise ConfigError(
            f"--size={','.join(map(str, size))}: {name} takes {variant.ranks[0]} numbers, one for each spatial axis"
        )
    shape = (1, *(size or SIZES[rank]), channels or variant.in_channels)
    given = {"in_channels": shape[-1], "num_classes": classes or variant.num_classes, "rank": rank}
    model = create_model(name, **given)
    try:
        model.check(shape)
    except ValueError as error:
        raise ConfigError(f"--size={','.join(map(str, shape[1:-1]))}: {error}") from error
    return _row(name, model, shape, batch, dtype)


def _is_run(name: str) -> bool:
    return (Path(name) / "run.json").is_file()


def _row(name: str, model: Segmenter, shape: tuple[int, ...], batch: int, dtype: str) -> dict[str, Any]:
    size_of, found = summary.summarize(model, shape), measures.of_network(model, shape, compute_dtype(dtype))
    row = {"model_name": name, "total_params": size_of.params, "flops": size_of.macs, "macs_printed": size_of.macs_printed}
    row |= {"mega_bytes": round(4 * size_of.params / 1e6, 3), "batch": batch, **found}
    if batch > 1:
        train, inference = measures.memory(model, (batch, *shape[1:]), compute_dtype(dtype))
        row |= {"pam_train_of_batch": train, "pam_inference_of_batch": inference}
    row["shape"] = " x ".join(map(str, shape))
    return {key: row.get(key, "") for key in (*COLUMNS, "stages")}


def of_run(run: Path) -> dict[str, Any]:
    """Measure the network of a run in a fresh process, at batch size 1 and that of its training, and return its row.

    Raises:
      ConfigError: it could not be measured.
    """
    batch = checkpoint.read_record(run)["config"]["train"]["batch_size"]
    return _in_a_fresh_process(str(run), [f"--batch={batch}"])


def table(names: Sequence[str], file: Path | None, options: Sequence[str]) -> Iterator[str]:
    """Measure networks one after another, each in a fresh process, and yield the lines of a table; with a file also as CSV.

    Args:
      names: exact names of networks.
      file: a CSV file; None: none.
      options: further options of the command line, for the processes.
    Raises:
      ConfigError: no such network, or one that could not be measured.
    """
    known = variants()
    for name in names:
        if not _is_run(name):
            lookup("network", name, known)
    width, rows = max(map(len, names)), []
    head = ("parameters", "GMAC", "train MiB", "infer MiB", "mean ms", "median", "p95", "p99")
    yield f"{'network':{width}s} " + " ".join(f"{word:>11s}" for word in head)
    for name in names:
        row = _in_a_fresh_process(name, options)
        rows.append({key: row[key] for key in COLUMNS})
        if file:
            write_csv(file, rows)
        numbers = [f"{row['total_params']:,}", f"{row['flops'] / 1e9:.3f}"]
        numbers += [f"{row[key] / 2**20:.1f}" for key in ("pam_train", "pam_inference")]
        keys = ("inference_latency_ms", "latency_median_ms", "latency_p95_ms", "latency_p99_ms")
        numbers += [f"{row[key]:.1f}" if row[key] != "" else "" for key in keys]
        yield f"{name:{width}s} " + " ".join(f"{number:>11s}" for number in numbers)
    how = f"{rows[0]['dtype']}, {rows[0]['runs']} timed runs, {rows[0]['device']}"
    yield f"one pass of batch 1, input {rows[0]['shape']} of the first, {how}"


def _in_a_fresh_process(name: str, options: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "jaxseg", "zoo", "--measure", name, "--alone", *options]
    around = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU may be shared with the process that trains
    with output.working(f"measuring {name}"):
        done = subprocess.run(command, capture_output=True, text=True, env=around)
    if done.returncode:
        raise ConfigError(f"{name}: {(done.stderr.strip().splitlines() or ['the process ended'])[-1].removeprefix('jaxseg: ')}")
    return json.loads(done.stdout.splitlines()[-1])


def alone(name: str, **options: Any) -> str:
    """Print one network's row as JSON, for the process that started this one."""
    return json.dumps(measure(name, **options))
