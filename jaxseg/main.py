"""Entry point: python -m jaxseg.main --config=configs/ich_segnext.py [--mode=train] [--workdir=DIR] [--config.key=value ...].

Exit codes: 0 done; 42 stopped by SIGTERM after saving (run the same command again to resume); 64 invalid config or command line;
65 unusable data; 66 no usable checkpoint; 74 disk error; 75 another process was lost; 76 NaN or Inf in training;
78 config, checkpoint or processes disagree.
"""

if __name__ == "__main__":  # before jax is imported
    from jaxseg.utils.command import begin
    from jaxseg.utils.process import start_with_huge_pages

    begin(stop_code=42)
    start_with_huge_pages()

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from jaxseg.cli import commands, manual
from jaxseg.cli import flags as given
from jaxseg.config import as_dict, check_mode, flatten, resolve
from jaxseg.types import ConfigError, StorageError
from jaxseg.utils import command, output
from jaxseg.utils.files import cache_root
from jaxseg.utils.lookup import lookup
from jaxseg.utils.process import convolve_channels_last

SPOKEN = (  # modes that print what --quiet and --json choose from
    *("train", "evaluate", "predict", "check", "plan"),
    *("compare", "summary"),
)
COMPUTING = ("train", "evaluate", "predict", "explain", "search", "compare")  # modes that --require_accelerator is for


def main(argv: list[str]) -> int:
    """Resolve the config, connect to the other processes and run the mode; jax is imported only after the config is checked."""
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}: options are written --name=value")
    mode = given.MODE.value
    lookup("mode", mode, commands.MODES)
    if given.CONFIG.value is None:
        raise ConfigError(f"--mode={mode} needs --config=FILE, for instance --config=configs/ich_segnext.py")
    for flag, modes_of_it in ((given.QUIET, SPOKEN), (given.JSON, SPOKEN), (given.REQUIRE_ACCELERATOR, COMPUTING)):
        if flag.value and mode not in modes_of_it:
            raise ConfigError(f"--{flag.name}: is for --mode={', '.join(modes_of_it)}, not for --mode={mode}; leave it out")
    config = resolve(given.CONFIG.value, name=given.config_name(), overridden=given.overridden())
    check_mode(config, mode, given.overridden())
    variant = f"-{config.variant.replace(',', '-')}" if config.variant else ""
    workdir = Path(given.WORKDIR.value or f"runs/{given.config_name()}{variant}")
    if mode != "train":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    import jax

    from jaxseg import modes
    from jaxseg.train.processes.connect import connect, together

    def work() -> int:
        convolve_channels_last()
        connect(
            given.COORDINATOR.value,
            given.NUM_PROCESSES.value,
            given.PROCESS_ID.value,
            join=config.mesh.join,
            heartbeat=config.mesh.heartbeat,
            config=flatten(as_dict(config)),
            same_sums=mode == "train",
        )
        if jax.process_index():
            output.one_of_several()
        if given.REQUIRE_ACCELERATOR.value and jax.devices()[0].platform == "cpu":
            raise ConfigError(
                f"--require_accelerator: jax sees no GPU or TPU here, only {len(jax.devices())} CPU device(s); "
                "`jaxseg doctor` says why, or leave the flag out"
            )
        if mode != "train":  # joining takes the signal for itself
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            with contextlib.suppress(StorageError):  # without a home folder nothing is kept
                jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        call = modes.Call(
            config=config,
            workdir=workdir,
            checkpoint=given.CHECKPOINT.value,
            input=given.INPUT.value,
            output=given.OUTPUT.value,
            name=given.NAME.value,
            overwrite=given.OVERWRITE.value,
            dicom_seg=given.DICOM_SEG.value,
            format=given.FORMAT.value,
            licence=given.LICENCE.value,
            extend=given.EXTEND.value,
        )
        return getattr(modes, mode)(call) or 0

    return together(work)


def _leave(code: int) -> NoReturn:
    """End the process with an exit code, after an error at once if there are several processes."""
    if "jaxseg.train.processes.connect" in sys.modules:
        from jaxseg.train.processes.connect import leave

        leave(code)
    sys.exit(code)


def run(argv: list[str] | None = None) -> None:
    """Entry point: errors that a user can cause end in a one-line message and their exit code.

    Args:
      argv: the command line; None: that of the process.
    """
    sys.argv = argv = sys.argv if argv is None else argv  # ml_collections looks for --config.key there
    asked = manual.asked(argv)
    command.run("jaxseg", (lambda: print(asked)) if asked else (lambda: main(given.parse(argv))), leave=_leave)


if __name__ == "__main__":
    run()
