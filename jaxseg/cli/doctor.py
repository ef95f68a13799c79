"""Check a machine before training on it: versions, devices, one convolution, memory, disk, caches."""

import importlib.metadata
import os
import platform
import re
import shutil
import time
from pathlib import Path

import jaxseg
from jaxseg.cli import recipes
from jaxseg.types import ConfigError
from jaxseg.utils.files import cache_root

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scipy",
    "nibabel",
    "pillow",
    "tensorboardX",
    "rich",
)
EXTRAS = ("pydicom", "optuna", "onednn-cpu-gomp", "torch", "tensorboard")
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")  # of the same version as jaxlib
OLDEST_DRIVER = {"jax-cuda12-plugin": 525, "jax-cuda13-plugin": 580}  # NVIDIA's, for that CUDA (its release notes, table 2)
DRIVER = Path("/proc/driver/nvidia/version")
CUDA = "pip install 'jax[cuda13]>=0.10,<0.13'"
SMALL_SHARED = 1 << 30  # bytes of /dev/shm below which Grain's workers may run out of it


def examine(*, require_accelerator: bool = False, clear: bool = False) -> int:
    """Print one line for each property of this machine; a line that needs action begins with "warning".

    Args:
      require_accelerator: fail where jax has no accelerator and would compute on the CPU.
      clear: first empty the cache folder (`cache_root()`): compiled programs and phantoms, which are made again when needed.
    Returns:
      0, or 1 if training cannot work on this machine.
    """
    if clear:
        _clear()
    print(f"jaxseg {jaxseg.__version__} in {Path(jaxseg.__file__).parent}; configs in {recipes.folder()}")
    print(f"Python {platform.python_version()} on {platform.platform()}")
    print("packages: " + ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))))
    print("optional: " + ", ".join(f"{name} {_version(name) or 'not installed'}" for name in EXTRAS))
    for line in driver_faults():
        print(f"warning: {line}")
    usable = _devices(require_accelerator)
    _memory()
    _disks()
    return 0 if usable else 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def driver_faults() -> list[str]:
    """Conflicts between jaxlib, its CUDA plugin and the NVIDIA driver, one line each."""
    faults, jaxlib = [], _version("jaxlib")
    installed = {name: version for name in PLUGINS if (version := _version(name))}
    for name, version in installed.items():
        if version != jaxlib:
            faults.append(f"{name} {version} with jaxlib {jaxlib}: the versions must be equal; {CUDA}")
    if len(installed) > 1:
        faults.append(f"{' and '.join(installed)} are both installed; uninstall the one that does not fit the driver")
    found = re.search(r"\s(\d+)\.\d", DRIVER.read_text()) if DRIVER.is_file() else None
    for name in installed:
        if found and int(found[1]) < OLDEST_DRIVER[name]:
            older = "; jax[cuda12] works with drivers since 525" if name == PLUGINS[1] and int(found[1]) >= 525 else ""
            faults.append(f"NVIDIA driver {found[1]}: {name} needs {OLDEST_DRIVER[name]} or newer{older}; update the driver")
    return faults


def _devices(required: bool) -> bool:
    """Print the devices and compare a convolution on the first of them with numpy's; return whether they are usable."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    try:
        devices = jax.devices()
    except RuntimeError as error:
        print(f"warning: jax found no device: {' '.join(str(error).split())[:300]}")
        return False
    kinds = {f"{d.platform} ({d.device_kind})": sum(e.device_kind == d.device_kind for e in devices) for d in devices}
    print("devices: " + ", ".join(f"{count} x {kind}" for kind, count in kinds.items()))
    accelerated = devices[0].platform != "cpu"
    if not accelerated and (shutil.which("nvidia-smi") or DRIVER.exists()):
        print(f"warning: an NVIDIA driver is installed, but jax computes on the CPU; install jax for CUDA: {CUDA}")
    if not accelerated and required:
        print("warning: no accelerator found, but one is required")
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 8)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
    expected = np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)
    convolve = jax.jit(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
    )
    begin = time.perf_counter()
    try:
        found = np.asarray(convolve(jnp.asarray(image), jnp.asarray(kernel)))
    except RuntimeError as error:
        print(f"warning: a convolution failed: {' '.join(str(error).split())[:300]}")
        return False
    error = float(np.abs(found - expected).max() / expected.std())
    print(
        f"test convolution: {time.perf_counter() - begin:.1f} s with compilation, largest error {error:.1e} standard deviations"
    )
    if not error < 1e-3:
        print("warning: the convolution differs from numpy's; check that the versions of driver, jax and jaxlib fit together")
        return False
    return accelerated or not required


def _memory() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None  # Windows has none
    print(f"memory: {f'{memory / 2**30:.1f} GiB' if memory else 'unknown'}; {cores} CPU cores for this process")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        print(f"shared memory: {free / 2**30:.1f} GiB free")
        if free < SMALL_SHARED:
            print("warning: too little shared memory for data.workers; start the container with --shm-size=8g, or use 0")


def _disks() -> None:
    try:
        cache = cache_root()
    except Exception as error:  # there is no home folder
        print(f"warning: no cache folder: {error}")
        cache = None
    for what, place in (("this folder", Path.cwd()), ("caches", cache)):
        if place is not None:
            there = next(p for p in (place, *place.parents) if p.exists())
            print(f"disk of {what} ({place}): {shutil.disk_usage(there).free / 2**30:.1f} GiB free")
    if cache is not None and cache.is_dir():
        sizes = {entry.name: _size(entry) for entry in sorted(cache.iterdir())}
        print("caches: " + (", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items()) or "empty"))
        print("jaxseg doctor --clear_cache deletes the caches; they are made again when needed")


def _size(path: Path) -> int:
    return sum(p.lstat().st_size for p in (path, *path.rglob("*")) if p.is_file() and not p.is_symlink())


def _clear() -> None:
    cache = cache_root()
    if cache.is_symlink() or not cache.is_dir():
        raise ConfigError(f"{cache} is not a folder for jaxseg alone; delete its caches by hand")
    for entry in cache.iterdir():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
    print(f"emptied {cache}")
