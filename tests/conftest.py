"""Tests run on the CPU with 8 fake devices and a persistent compilation cache; the whole suite in several processes."""

import contextlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
AS_SET = "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ
# Rooms and files that compile much and whose laws hold whatever XLA makes of a program. Those of compiled kernels (ops), of
# figures (bench), of what leaves as a program (exporting) and of whole commands compile as users do.
QUICK = (
    *("augment/", "experiments/insight/", "losses/", "weights/"),
    *("train/test_extra_channels.py", "train/test_label_values.py", "train/test_left_out.py", "train/test_loop.py"),
    *("train/test_picture_patches.py", "train/test_volume_path.py"),
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
os.environ.setdefault("JAXSEG_KEEP_PROGRAMS", "off")  # tests change code in ways that no key of a kept program can know
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/jaxseg-tests/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# Files of half a minute and more, the longest first.
LONG = (
    "test_runs.py",
    "models/test_zoo.py",
    "test_peers.py",
    "config/test_every_key.py",
    "test_bad_input.py",
    "train/test_step.py",
    "test_configs_quick.py",
    "models/test_segnext_parity.py",
    "models/test_brats2d_parity.py",
    "ops/test_attention.py",
    "train/test_random_keys.py",
    "test_unlucky.py",
    "test_docs.py",
    "models/test_mobile_unetr.py",
    "models/test_effisegnet_parity.py",
    "augment/test_mix.py",
    "augment/test_intensity.py",
    "losses/test_values.py",
    "train/test_volume_path.py",
    "train/test_training_equals_pytorch.py",
    "data/stream/test_pipeline.py",
    "models/test_counts_2d.py",
)
DEFAULT = "not slow and not full and not tutorial"  # pyproject's own selection


def pytest_addoption(parser):
    parser.addoption("--fault", metavar="ROWS", help="only tests that hold these rows of docs/faults.md, such as F3,D16")
    parser.addoption("--fault-table", metavar="PAGE", help="write outcomes of the rows that ran into this page")


def pytest_configure(config):
    if config.option.fault or config.option.fault_table:
        from tests.fault_table import Outcomes

        config.pluginmanager.register(Outcomes(config))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs in as many processes as there are cores, four at most, a file in one of them; a selection, or a
    run that is looked at (--pdb, -s), stays in one process. `-n 0` and `-n 8` are obeyed."""
    if config.option.fault and config.option.markexpr == DEFAULT:
        config.option.markexpr = "fault"  # the long ones too
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
        option.loadscopereorder = False  # by the number of tests; by LONG instead


def pytest_collection_modifyitems(config, items):
    """Processes take the files that last long first, so that none is left alone with one at the end."""
    if hasattr(config, "workerinput"):
        place = {name: i for i, name in enumerate(LONG)}
        items.sort(key=lambda item: place.get(item.path.relative_to(ROOT).as_posix(), len(LONG)))


@contextlib.contextmanager
def _optimisations(off: bool):
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", off)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def unoptimised():
    """XLA leaves its expensive passes out: half the time to compile, for programs that run a few times."""
    with _optimisations(off=True):
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_as_the_room_asks(request):
    """QUICK compiles as `unoptimised` does; with JAX_DISABLE_MOST_OPTIMIZATIONS=0, as in `make full`, as users do."""
    quick = request.path.relative_to(ROOT).as_posix().startswith(QUICK) and not AS_SET
    with _optimisations(off=True) if quick else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def program():
    """jaxseg.main, imported once for all tests of this process, which run it in forks."""
    from tests.forked import Program

    with Program() as program:
        yield program


@pytest.fixture
def without_jaxs_cache():
    """What jax finds in its own cache cannot be kept (`programs.kept`)."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for enabled in (False, True):
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
        if not enabled:
            yield
