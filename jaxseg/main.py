"""The door: python -m jaxseg.main --config=configs/ich_segnext.py [--mode=train] [--workdir=DIR] [--config.key=value ...].

Modes are one table. Exit codes: 0 done; 42 stopped by SIGTERM and saved (run the same command again); 64 bad config or
command line; 65 bad data; 66 no usable checkpoint; 74 storage; 75 another process lost; 76 not finite; 78 mismatch.
"""

if __name__ == "__main__":  # before jax is imported
    from jaxseg.utils.command import begin
    from jaxseg.utils.memory import start_with_huge_pages

    begin(stop_code=42)
    start_with_huge_pages()

import ast
import contextlib
import os
import signal
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jaxseg import modes, recorded
from jaxseg.config import resolve
from jaxseg.train.processes.connect import connect, leave, together
from jaxseg.types import ConfigError, DataError, JaxsegError, StorageError
from jaxseg.utils import code, command, guard
from jaxseg.utils.files import cache_root
from jaxseg.utils.lookup import lookup
from jaxseg.utils.xla_flags import convolve_channels_last


class OrNone(flags.ArgumentParser):
    """A parser that takes the word None too: it unsets an optional key, and `resolve` refuses it for the others."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument):
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


class Words(flags.ArgumentParser):
    """A parser of tuples in Python's notation or as words with commas between them: liver,left kidney. None as in `OrNone`."""

    syntactic_help = "a tuple: (0.5, 1), or words with commas between them"

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument if argument is None or isinstance(argument, tuple) else (argument,)
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            if set(argument) & set("()[]{}'\""):
                raise ValueError(f"{argument} is no tuple in Python: close its brackets and put every word in quotes") from None
            return tuple(word.strip() for word in argument.split(",") if word.strip())
        return value if value is None or isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)

    def flag_type(self) -> str:
        return "tuple"


config_flags.register_flag_parser_for_type(tuple, Words())
for kind, parser in ((int, flags.IntegerParser()), (float, flags.FloatParser()), (bool, flags.BooleanParser())):
    config_flags.register_flag_parser_for_type(kind, OrNone(parser))
CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file, with arguments after a colon.", lock_config=True)
MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(modes.MODES)}.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/<config> when not given.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "evaluate, predict: a run or checkpoint folder other than --workdir.")
INPUT = flags.DEFINE_string(
    "input",
    None,
    "predict: a file or folder (NIfTI, DICOM series, PNG, JPEG); evaluate: another labelled set in the layout of the run's own.",
)
NAME = flags.DEFINE_string("name", "", "evaluate: of the folder below RUN/evaluations, in place of the split's or the set's.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "evaluate: replace an evaluation of that name with other options or data.")
ALLOW_CODE = flags.DEFINE_bool(
    "allow_code",
    False,
    "Import modules that a run names by path (my_module:MyNet) though their files changed since its training.",
)
OUTPUT = flags.DEFINE_string("output", None, "predict: the folder to write to.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", os.environ.get("JAXSEG_COORDINATOR"), "HOST:PORT of process 0, which listens there alone."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", os.environ.get("JAXSEG_NUM_PROCESSES"), "How many processes take part.")
PROCESS_ID = flags.DEFINE_integer("process_id", os.environ.get("JAXSEG_PROCESS_ID"), "Which of them this one is, from 0.")


def parse(argv):
    """absl's flag parsing with every mistake turned into one line."""
    for path in (a.partition("=")[2].split(":")[0] for a in argv if a.startswith(("--config=", "-config="))):
        if Path(path).exists():
            try:
                guard.check_regular(path)  # before it is imported
            except DataError as error:
                raise ConfigError(f"--config={error}") from error
    try:
        if _typed(argv, "mode") in modes.OF_A_RUN and not _typed(argv, "config"):
            argv = recorded.command_line(argv, _typed(argv, "checkpoint") or _typed(argv, "workdir"))
        rest = flags.FLAGS(argv)
        if ALLOW_CODE.value:
            code.allow()
        if CONFIG.value is not None:
            path = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
            if not Path(path).is_file():
                raise ConfigError(f"--config={path}: no such file; the experiments are in configs/")
        return rest
    except JaxsegError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"--config: no config in Python: {error}; configs/ich_segnext.py shows one") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError, ImportError) as error:
        text = str(error.args[0] if error.args else error).strip()
        if "Traceback (most recent call last)" in text:  # raised by the config file's own code: its last line says what
            text = text.splitlines()[-1].removeprefix("jaxseg.types.ConfigError: ")
        text = " ".join(text.replace("\\n", " ").replace("\\'", "'").replace('"', "'").split())
        text = text[1:-1] if text[:1] == text[-1:] == "'" else text
        head, fields, tail = text.partition("Other fields present:")
        text = head + (tail[tail.rindex("Did you mean") :] if fields and "Did you mean" in tail else "")
        inside = next((a for a in argv if ".options." in a.split("=")[0] and a.lstrip("-").startswith("config.")), None)
        if inside:  # ml_collections looks for the option among the keys of the tree
            key, _, option = inside.lstrip("-").partition("=")[0].rpartition(".options.")
            text = f"{inside}: options are one value; write --{key}.options=\"{{'{option}': value}}\""
        elif "has no attribute 'get_config'" in text:
            text = "the file defines no get_config(); configs/ich_segnext.py shows one"
        elif (name := text.strip(" '")).isidentifier():  # ml_collections names the key and says no more
            text = f"no key {name!r}: the complete list, with comments, is configs/_base.py"
        raise ConfigError(f"command line or config: {text}") from error


def _typed(argv: list[str], name: str) -> str | None:
    """The value of a flag as it was typed, --name=value or --name value; None where it was not."""
    for i, word in enumerate(argv[1:], 1):
        flag, is_there, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return value if is_there else argv[i + 1] if i + 1 < len(argv) else None
    return None


def main(argv) -> int:
    """Resolve the config and run the mode."""
    import jax

    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}: options are written --name=value")
    mode = lookup("mode", MODE.value, modes.MODES)
    if mode is not modes.train:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    convolve_channels_last()
    connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with contextlib.suppress(StorageError):  # without a home folder nothing is kept
            jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if CONFIG.value is None:
        raise ConfigError(f"--mode={MODE.value} needs --config=FILE, for instance --config=configs/ich_segnext.py")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    config = resolve(CONFIG.value, name=name, overridden=list(config_flags.get_override_values(flags.FLAGS["config"])))
    variant = f"-{config.variant.replace(',', '-')}" if config.variant else ""
    workdir = Path(WORKDIR.value or f"runs/{name}{variant}")
    return (
        mode(
            modes.Call(
                config=config,
                workdir=workdir,
                checkpoint=CHECKPOINT.value,
                input=INPUT.value,
                output=OUTPUT.value,
                name=NAME.value,
                overwrite=OVERWRITE.value,
            )
        )
        or 0
    )


def run() -> None:
    """Entry point: errors a user can cause end with one line and their exit code."""
    app.define_help_flags()
    command.run("jaxseg", lambda: together(lambda: main(parse(sys.argv))), leave=leave)


if __name__ == "__main__":
    run()
