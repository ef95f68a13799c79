"""The flags of the command line, and how they are read: every mistake is one line that says what to write instead."""

import ast
import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxseg.cli import commands, recipes
from jaxseg.types import ConfigError, DataError, JaxsegError
from jaxseg.utils import code, guard, output


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
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, or the name of one that comes with jaxseg; arguments after a colon.", lock_config=True
)
MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(commands.MODES)}.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/<config> when not given.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "evaluate, predict, export: a run or checkpoint folder other than --workdir."
)
INPUT = flags.DEFINE_string(
    "input",
    None,
    "predict: a file or folder (NIfTI, DICOM series, PNG, JPEG); evaluate: another labelled set in the layout of the run's own; "
    "export to torch: a state dict whose names are written; to nnunet: the checkpoint that was imported.",
)
NAME = flags.DEFINE_string(
    "name", "", "evaluate: of the folder below RUN/evaluations, in place of the split's or the set's; report: which of them."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "evaluate: replace an evaluation of that name with other options or data.")
EXTEND = flags.DEFINE_bool("extend", False, "train: go on with a run of fewer epochs to --config.train.epochs.")
STATISTICS = flags.DEFINE_bool(
    "statistics", False, "predict: volume (ml) or area (pixels, mm2) and mean intensity of each structure: statistics.csv."
)
UNCERTAINTY = flags.DEFINE_string(
    "uncertainty", None, "predict: maps of the entropy (bits), or of the variance over config.infer.ensemble: entropy, variance."
)
QUIET = flags.DEFINE_bool("quiet", False, "Print warnings and results alone.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object a line for machines; the lines for people go to the error stream.")
REQUIRE_ACCELERATOR = flags.DEFINE_bool("require_accelerator", False, "Refuse to compute where jax sees no GPU or TPU.")
ALLOW_CODE = flags.DEFINE_bool(
    "allow_code",
    False,
    "Import modules that a run names by path (my_module:MyNet) though their files changed since its training.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: the folder to write to; check: that of the picture of examples; plan: the config file; export: the file; "
    "report: the page.",
)
DICOM_SEG = flags.DEFINE_bool("dicom_seg", False, "predict: write DICOM Segmentation objects too, of series that are DICOM.")
FORMAT = flags.DEFINE_string("format", "", "export: bundle, onnx, torch or nnunet; left out, the suffix of --output says it.")
LICENCE = flags.DEFINE_string("licence", "", "export: of the weights, for the model card ('CC BY 4.0').")
COORDINATOR = flags.DEFINE_string(
    "coordinator", os.environ.get("JAXSEG_COORDINATOR"), "HOST:PORT of process 0, which listens there alone."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", os.environ.get("JAXSEG_NUM_PROCESSES"), "How many processes take part.")
PROCESS_ID = flags.DEFINE_integer("process_id", os.environ.get("JAXSEG_PROCESS_ID"), "Which of them this one is, from 0.")


ALL = tuple(
    flags.FLAGS[holder.name]
    for holder in (
        CONFIG,
        MODE,
        WORKDIR,
        CHECKPOINT,
        INPUT,
        OUTPUT,
        NAME,
        OVERWRITE,
        DICOM_SEG,
        FORMAT,
        LICENCE,
        EXTEND,
        STATISTICS,
        UNCERTAINTY,
        QUIET,
        JSON,
        REQUIRE_ACCELERATOR,
        ALLOW_CODE,
        COORDINATOR,
        NUM_PROCESSES,
        PROCESS_ID,
    )
)


def parse(argv: list[str]) -> list[str]:
    """absl's flag parsing with every mistake turned into one line.

    Args:
      argv: the command line, the program's name first. --config may name a config that comes with jaxseg.
    Returns:
      What is left of it.
    Raises:
      ConfigError: a flag, a key or a file that is not there, or not what it should be.
    """
    recipes.importable()
    output.choose(quiet="--quiet" in argv, as_json="--json" in argv)  # also for what goes wrong from here on
    argv = [argv[0], *_found(argv[1:])]
    try:
        if _typed(argv, "mode") in commands.OF_A_RUN and not _typed(argv, "config"):
            from jaxseg import recorded  # imports what reads checkpoints, which other commands do not need

            argv = recorded.command_line(argv, _typed(argv, "checkpoint") or _typed(argv, "workdir"))
        rest = flags.FLAGS(argv)
        output.choose(quiet=QUIET.value, as_json=JSON.value)
        if ALLOW_CODE.value:
            code.allow()
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
            *outer, last = option.split(".")
            nested = "".join(f"{{'{name}': " for name in outer) + f"{{'{last}': value}}" + "}" * len(outer)
            text = f'{inside}: options are one value; write --{key}.options="{nested}"'
        elif "has no attribute 'get_config'" in text:
            text = "the file defines no get_config(); configs/ich_segnext.py shows one"
        elif (name := text.strip(" '")).isidentifier():  # ml_collections names the key and says no more
            text = f"no key {name!r}: the complete list, with comments, is configs/_base.py"
        raise ConfigError(f"command line or config: {text}") from error


SHORT = {"statistics": ("", "True"), "uncertainty": ("entropy", "variance")}  # flags that stand for a key of infer: values


def _found(words: list[str]) -> list[str]:
    """The command line with the path of its config file, and keys of `infer`, in the place of what was typed."""
    found = []
    for i, word in enumerate(words):
        flag, there, value = word.partition("=")
        before = words[i - 1] if i else ""
        if word.startswith("-") and (short := flag.lstrip("-")) in SHORT:
            following = words[i + 1] if i + 1 < len(words) and words[i + 1] in SHORT[short] else ""
            default = "True" if short == "statistics" else "entropy"
            found.append(f"--config.infer.{short}={value if there else following or default}")
            continue
        if before.lstrip("-") in SHORT and before.startswith("-") and word in SHORT[before.lstrip("-")]:
            continue
        if word.startswith("-") and flag.lstrip("-") == "config" and there and value:
            found.append(f"--config={_file(value)}")
        elif before in ("--config", "-config"):
            found.append(_file(word))
        else:
            found.append(word)
    return found


def _file(given: str) -> str:
    """The file, and its arguments after a colon, that --config means; checked before it is imported."""
    name, colon, arguments = given.partition(":")
    path = recipes.find(name)
    try:
        guard.check_regular(path)
    except DataError as error:
        raise ConfigError(f"--config={error}") from error
    return f"{path}{colon}{arguments}"


def config_name() -> str:
    """The name of the config file that was given, without folder and suffix."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem


def overridden() -> list[str]:
    """The keys that were given on the command line ("train.epochs")."""
    return list(config_flags.get_override_values(flags.FLAGS["config"]))


def _typed(argv: list[str], name: str) -> str | None:
    """The value of a flag as it was typed, --name=value or --name value; None where it was not."""
    for i, word in enumerate(argv[1:], 1):
        flag, is_there, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return value if is_there else argv[i + 1] if i + 1 < len(argv) else None
    return None
