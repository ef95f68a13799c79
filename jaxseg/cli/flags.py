"""The flags of the command line and their parsing: every mistake gives one line that says what to write instead."""

import ast
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxseg.cli import commands, ensembles, recipes
from jaxseg.types import ConfigError, DataError, JaxsegError
from jaxseg.utils import code, command, guard, output


class OrNone(flags.ArgumentParser):
    """A parser that also accepts the word None, which unsets an optional key; `resolve` refuses it for other keys."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument):
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


class Words(flags.ArgumentParser):
    """A parser of tuples, in Python's notation or as comma-separated words: liver,left kidney. It accepts None like `OrNone`."""

    syntactic_help = "a tuple: (0.5, 1), or words separated by commas"

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument if argument is None or isinstance(argument, tuple) else (argument,)
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            if set(argument) & set("()[]{}'\""):
                raise ValueError(f"{argument} is not a Python tuple; close all brackets and put every word in quotes") from None
            return tuple(word.strip() for word in argument.split(",") if word.strip())
        return value if value is None or isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)

    def flag_type(self) -> str:
        return "tuple"


config_flags.register_flag_parser_for_type(tuple, Words())
for kind, parser in ((int, flags.IntegerParser()), (float, flags.FloatParser()), (bool, flags.BooleanParser())):
    config_flags.register_flag_parser_for_type(kind, OrNone(parser))
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, or the name of one that comes with jaxseg; its arguments follow a colon (ich_segnext:b,quick).",
    lock_config=True,
)
MODE = flags.DEFINE_string("mode", "train", f"The task: {', '.join(commands.MODES)}.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the default is runs/<config>.")
EXPERIMENT = flags.DEFINE_string(
    "experiment",
    None,
    "predict: NAME or NAME/MODEL of an experiment in runs (--mode=compare): apply all its folds and seeds of the model that is "
    "best on the validation split, or of the named model. --workdir takes the folder of an experiment or of its model too.",
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "evaluate, predict, explain, export: a run or checkpoint folder to use instead of that of --workdir."
)
INPUT = flags.DEFINE_string(
    "input",
    None,
    "predict, explain: a file or folder (NIfTI, DICOM series, PNG, JPEG); evaluate: another labelled data set in the run's "
    "layout; export: for torch a state dict whose tensor names are used, for nnunet the checkpoint that was imported.",
)
NAME = flags.DEFINE_string(
    "name",
    "",
    "evaluate: name of the result folder in RUN/evaluations; the default is the split or data set; report: the evaluation.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "evaluate: replace an evaluation that has this name but other options or data.")
EXTEND = flags.DEFINE_bool("extend", False, "train: continue a run that had fewer epochs up to --config.train.epochs.")
STATISTICS = flags.DEFINE_bool(
    "statistics", False, "predict: write statistics.csv: volume (ml) or area (pixels, mm2) and mean intensity of each structure."
)
UNCERTAINTY = flags.DEFINE_string(
    "uncertainty", None, "predict: write uncertainty maps: entropy (bits), or variance over the runs of config.infer.ensemble."
)
QUIET = flags.DEFINE_bool("quiet", False, "Print only warnings and results.")
JSON = flags.DEFINE_bool(
    "json", False, "Print one JSON object per line for other programs; messages for people go to the error stream."
)
REQUIRE_ACCELERATOR = flags.DEFINE_bool("require_accelerator", False, "Refuse to compute where jax sees no GPU or TPU.")
ALLOW_CODE = flags.DEFINE_bool(
    "allow_code",
    False,
    "Import the modules that a run names by path (my_module:MyNet) even if their files have changed since it was trained.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict, explain: folder for the results; check: folder for the picture of examples; plan: the config file; export: "
    "the file; report: the page.",
)
DICOM_SEG = flags.DEFINE_bool("dicom_seg", False, "predict: for DICOM series also write DICOM Segmentation objects.")
FORMAT = flags.DEFINE_string(
    "format", "", "export: bundle, onnx, torch or nnunet; the default follows from the suffix of --output."
)
LICENCE = flags.DEFINE_string("licence", "", "export: licence of the weights, for the model card ('CC BY 4.0').")
COORDINATOR = flags.DEFINE_string(
    "coordinator", os.environ.get("JAXSEG_COORDINATOR"), "HOST:PORT at which process 0 listens (on this address alone)."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", os.environ.get("JAXSEG_NUM_PROCESSES"), "Number of processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", os.environ.get("JAXSEG_PROCESS_ID"), "Number of this process, counted from 0.")


ALL = tuple(
    flags.FLAGS[holder.name]
    for holder in (
        CONFIG,
        MODE,
        WORKDIR,
        EXPERIMENT,
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
    """Parse the flags with absl, and turn every mistake into a one-line error.

    Args:
      argv: the command line, starting with the program's name. --config may name a config that comes with jaxseg.
    Returns:
      The arguments that are not flags.
    Raises:
      ConfigError: an unknown flag, key or config file, or a value of the wrong type.
    """
    recipes.importable()
    output.choose(quiet="--quiet" in argv, as_json="--json" in argv)  # also for what goes wrong from here on
    sys.argv = argv = [argv[0], *_found(argv[1:])]  # ml_collections looks for --config.key there
    try:
        argv = ensembles.as_runs(argv, _typed(argv, "mode"), _typed(argv, "workdir"), _typed(argv, "experiment"))
        sys.argv = argv
        if _typed(argv, "mode") in commands.OF_A_RUN and not _typed(argv, "config"):
            from jaxseg import recorded  # a slow import, which other commands do not need

            argv = recorded.command_line(argv, _typed(argv, "checkpoint") or _typed(argv, "workdir"))
        rest = flags.FLAGS(argv)
        output.choose(quiet=QUIET.value, as_json=JSON.value)
        if JSON.value:
            command.python_alone()
        if ALLOW_CODE.value:
            code.allow()
        return rest
    except JaxsegError:
        raise
    except SyntaxError as error:
        raise ConfigError(
            f"--config: the file is not valid Python: {error}; see configs/ich_segnext.py for an example"
        ) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError, ImportError) as error:
        text = str(error.args[0] if error.args else error).strip()
        if (
            "Traceback (most recent call last)" in text
        ):  # raised by the config file's own code: keep the last line, which has the message
            text = text.splitlines()[-1].removeprefix("jaxseg.types.ConfigError: ")
        text = " ".join(text.replace("\\n", " ").replace("\\'", "'").replace('"', "'").split())
        text = text[1:-1] if text[:1] == text[-1:] == "'" else text
        head, fields, tail = text.partition("Other fields present:")
        text = head + (tail[tail.rindex("Did you mean") :] if fields and "Did you mean" in tail else "")
        inside = next((a for a in argv if ".options." in a.split("=")[0] and a.lstrip("-").startswith("config.")), None)
        if inside:  # ml_collections treats the option as a key of the tree
            key, _, option = inside.lstrip("-").partition("=")[0].rpartition(".options.")
            *outer, last = option.split(".")
            nested = "".join(f"{{'{name}': " for name in outer) + f"{{'{last}': value}}" + "}" * len(outer)
            text = f'{inside}: options are set as one value; write --{key}.options="{nested}"'
        elif "has no attribute 'get_config'" in text:
            text = "the file has no get_config(); see configs/ich_segnext.py for an example"
        elif (name := text.strip(" '")).isidentifier():  # ml_collections' message is the key alone
            text = f"no key {name!r}; configs/_base.py lists all keys, with comments"
        raise ConfigError(f"command line or config: {text}") from error


SHORT = {"statistics": ("", "True"), "uncertainty": ("entropy", "variance")}  # flags that stand for a key of infer: values


def _found(words: list[str]) -> list[str]:
    """The command line, with a config's name replaced by the path of its file, and some flags by keys of `infer`."""
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
    """PATH:ARGUMENTS for a value of --config, also for a run folder; the file is checked before it is imported."""
    if recipes.is_run(Path(given)):
        return f"{recipes.RECORDED}:{given}"
    name, colon, arguments = given.partition(":")
    path = recipes.find(name)
    try:
        guard.check_regular(path)
    except DataError as error:
        raise ConfigError(f"--config={error}") from error
    return f"{path}{colon}{arguments}"


def config_name() -> str:
    """The name of the given config file, without folder and suffix."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem


def overridden() -> list[str]:
    """The keys that were given on the command line ("train.epochs")."""
    return list(config_flags.get_override_values(flags.FLAGS["config"]))


def _typed(argv: list[str], name: str) -> str | None:
    """The value of a flag on the command line, as --name=value or --name value; None where it is absent."""
    for i, word in enumerate(argv[1:], 1):
        flag, is_there, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return value if is_there else argv[i + 1] if i + 1 < len(argv) else None
    return None
