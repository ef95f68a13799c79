"""Description of the machine for a table (date, processor or accelerator, versions), and peak memory of this process."""

import ctypes
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from jaxseg.utils.machine.cores import cores

PACKAGES = ("jax", "flax", "numpy", "torch", "monai", "transformers", "scipy")


def describe() -> dict[str, str]:
    """The columns that describe the machine, {column: text}. No backend is started: the driver's tool names the accelerator."""
    return {
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "machine": accelerator() or processor(),
        "cores": str(cores()),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "oneDNN": "" if os.environ.get("JAXSEG_ONEDNN") == "off" else version("onednn-cpu-gomp"),
    }


def accelerator() -> str:
    """Name and driver of the first GPU; "" if there is none or JAX_PLATFORMS selects the CPU."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return ""
    try:
        text = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{text[0]}{f' x {len(text)}' if len(text) > 1 else ''}" if text else ""


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((l.partition(":")[2].strip() for l in lines if l.startswith("model name")), platform.machine())


def version(package: str) -> str:
    """Installed version of a package, "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Peak:
    """Peak memory in MiB, minus the memory in use before the first call.

    Create it when weights and inputs are in memory, call `reset` after the first calls, and `read` after some more. On a GPU it
    is the allocator's peak (which jax never resets), including weights; on a CPU it is the peak of the resident memory (VmHWM,
    which Linux resets on request). A process that compiles keeps the compiler's heap, which is far larger than a step's memory;
    on a CPU `read` therefore returns None with `compiles`, and only XLA's planned memory is reported.
    """

    def __init__(self, gpu: bool, *, compiles: bool = False):
        self._gpu, self._blind = gpu, compiles and not gpu
        self._base = 0.0 if gpu else resident("VmRSS")

    def reset(self) -> None:
        if self._gpu and "torch" in sys.modules:
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        if not self._gpu:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float | None:
        if self._blind:
            return None
        if not self._gpu:
            return max(resident("VmHWM") - self._base, 0.0)
        if "torch" in sys.modules:
            return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
        return sys.modules["jax"].local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, MiB."""
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field + ":"))
    return int(line.split()[1]) / 1024
