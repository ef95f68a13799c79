"""Tests run on the CPU with 8 fake devices and a persistent compilation cache; the whole suite in several processes."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/jaxseg-tests/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

DEFAULT = "not slow and not full"  # pyproject's own selection


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs in as many processes as there are cores, four at most, a file in one of them; a selection, or a
    run that is looked at (--pdb, -s), stays in one process. `-n 0` and `-n 8` are obeyed."""
    option, cores = config.option, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    selected = (
        config.args_source != config.ArgsSource.TESTPATHS
        or option.keyword
        or option.collectonly
        or option.markexpr not in ("", DEFAULT)
    )
    if (
        not selected
        and cores > 1
        and config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")
        and option.numprocesses is None
        and not option.usepdb
        and option.capture != "no"
    ):
        option.numprocesses, option.dist = min(cores, 4), "loadfile"


@pytest.fixture(scope="module")
def unoptimised():
    """XLA leaves its expensive passes out: half the time to compile, for programs that run a few times."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
