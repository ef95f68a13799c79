"""Record the hardware and software on which a run's rounding depends, and compare them when the run is resumed.

The order in which sums are rounded depends on the number of devices and of XLA's CPU threads, the processor's vector width and
the version of the compiler. The steps and samples of a resumed run never depend on them.
"""

import contextlib
import glob
import os
from pathlib import Path

import jax
import jaxlib

from jaxseg import checkpoint
from jaxseg.train.log import Log
from jaxseg.utils import code

NAME = "surroundings"  # in run.json
_WORDS = {
    "platform": "platform",
    "processor": "processor",
    "devices": "devices",
    "cpu_threads": "CPU threads of XLA",
    "jaxlib": "jaxlib",
}


def current() -> dict[str, str | int]:
    """Return the values of this process; its devices must be initialised."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "processor": _processor() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "cpu_threads": cpu_threads(),
        "jaxlib": jaxlib.__version__,
    }


def cpu_threads() -> int:
    """Return the number of threads of XLA's CPU client: that of the usable cores, or set by PJRT_NPROC or fake devices."""
    jax.devices()
    found = 0
    for name in glob.glob("/proc/self/task/*/comm"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found += Path(name).read_text(encoding="utf-8", errors="replace").startswith("tf_XLAEigen")
    return found or os.cpu_count() or 1


def compare(workdir: Path, log: Log, *, resumed: bool) -> None:
    """Log in one line what has changed since the run's last start, if anything has."""
    if not resumed:
        return
    record = checkpoint.read_record(workdir)
    before, now = record[NAME], current()
    changed = [f"{word} {before.get(key)} before, {now[key]} now" for key, word in _WORDS.items() if before.get(key) != now[key]]
    if changed:
        log.say(
            f"WARNING {'; '.join(changed)}: the run continues with the same steps and samples, but sums are rounded in another "
            "order, so the last digits will differ from those of an uninterrupted run"
        )
    for module in code.changed(record["code"]):
        log.say(f"WARNING the module {module!r} has changed since the run was started: the run continues with the new content")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
