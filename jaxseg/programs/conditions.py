"""What a compiled program and its last bits depend on besides its arguments: software, environment, settings and the machine."""

import contextlib
import glob
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jaxlib

import jaxseg
from jaxseg.ops.conv.cpu.onednn import library
from jaxseg.utils.machine.cores import cores

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy")
PREFIXES = ("JAX", "XLA", "PJRT", "OMP", "DNNL", "ONEDNN", "TF_")  # of variables that change what is compiled
SWITCH = "JAXSEG_KEEP_PROGRAMS"
PLACES = ("JAX_COMPILATION_CACHE_DIR", "JAXSEG_CACHE", SWITCH)  # variables that say where files lie


def software() -> dict[str, str]:
    """Return the versions of Python and of the packages, and a digest of the library's own code."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    digest, root = hashlib.blake2b(digest_size=8), Path(jaxseg.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found | {"the code of jaxseg": digest.hexdigest()}


def hardware() -> dict[str, str | int]:
    """Return on what sums are rounded in which order; the devices of this process must be initialised."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "processor": _first("model name") if device.platform == "cpu" else device.device_kind,
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


def of_programs() -> dict[str, Any]:
    """Return all that a compiled program depends on besides what it computes and its arguments."""
    environment = {k: v for k, v in os.environ.items() if k.startswith(PREFIXES)}
    return {
        **software(),
        "environment": {k: v for k, v in sorted(environment.items()) if k not in PLACES},
        "jax": {k: repr(v) for k, v in sorted(jax.config.values.items()) if "cache" not in k},
        "machine": [platform.machine(), _instructions(), cores(), hardware()],
        "convolutions": library.engine(),  # registers oneDNN's calls before a program that holds them is read
    }


def _first(name: str) -> str:
    """The first value of an entry of /proc/cpuinfo."""
    lines = _cpuinfo().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def _instructions() -> str:
    """What the kernel says of the first core: model and instruction sets."""
    lines = _cpuinfo().split("\n\n")[0].splitlines()
    kept = [line for line in lines if line.startswith(("model", "flags", "Features", "vendor", "CPU "))]
    return "\n".join(kept) or platform.processor()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
