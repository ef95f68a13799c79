"""Find and run the mode or tool that a command line `jaxseg COMMAND NAME ...` names."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxseg.cli import commands, doctor, manual, recipes, zoo
from jaxseg.types import ConfigError
from jaxseg.utils import command
from jaxseg.utils.lookup import lookup


def run(argv: list[str]) -> None:
    """Run a command and end the process with its exit code.

    Args:
      argv: the command line, the program's name first.
    """
    words = argv[1:]
    if not words or words[0] in (*manual.HELP, "help"):
        command.run("jaxseg", lambda: print(manual.overview()))
    elif words[0] in manual.VERSION:
        command.run("jaxseg", lambda: print(manual.asked(argv)))
    elif words[0] == "predict" and any(word.partition("=")[0] in ("--pretrained", "--task") for word in words):
        command.run("jaxseg", lambda: _pretrained(words[1:]))
    elif words[0] in commands.MODES:
        from jaxseg import main  # defines its flags

        main.run(as_mode(words[0], words[1:]))
    else:
        command.run("jaxseg", lambda: _tool(words[0], words[1:]))


def as_mode(name: str, words: Sequence[str]) -> list[str]:
    """Translate `jaxseg MODE NAME ...` to the command line of jaxseg.main; the first word without dashes is the config or run."""
    first = [f"--{commands.MODES[name].word}={words[0]}"] if words and not words[0].startswith("-") else []
    return ["jaxseg", f"--mode={name}", *first, *words[len(first) :]]


def _tool(name: str, words: Sequence[str]) -> int | None:
    lookup("command", name, commands.MODES | commands.TOOLS)
    return TOOLS[name](words)


def _init(words: Sequence[str]) -> None:
    parser = _parser("init")
    parser.add_argument("name", help=f"one of {', '.join(recipes.names())}")
    parser.add_argument("--output", default=".", help="the folder or file to write to; default: the current folder")
    arguments = parser.parse_args(words)
    written = recipes.copy(arguments.name, Path(arguments.output))
    print(f"wrote {written}; edit it, then: jaxseg train {written}")


def _zoo(words: Sequence[str]) -> None:
    parser = _parser("zoo")
    listing = "list the networks whose names contain this text, with their numbers of parameters"
    parser.add_argument("contains", nargs="*", metavar="NAME", help=listing)
    parser.add_argument(
        "--measure", action="store_true", help="measure memory and latency of these networks (or run folders) here"
    )
    parser.add_argument("--size", default="", help="with --measure: size of the input, such as 128,128 or 64,64,64")
    parser.add_argument("--batch", type=int, default=1, help="with --measure: also the memory of this batch size")
    parser.add_argument("--channels", type=int, default=0, help="with --measure: input channels; default: the network's own")
    parser.add_argument("--classes", type=int, default=0, help="with --measure: logits; default: the network's own")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="with --measure: compute dtype")
    parser.add_argument("--output", default="", help="with --measure: a CSV file")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    contains = arguments.contains
    if arguments.measure:
        _measure(arguments)
        return
    others = [f"--{name}" for name in ("size", "batch", "channels", "classes", "dtype", "output") if _given(words, name)]
    if others:
        raise ConfigError(f"{others[0]}: is for jaxseg zoo --measure; leave it out, or add --measure")
    if not contains:
        print(zoo.names())
    for line in zoo.table(contains) if contains else ():
        print(line, flush=True)


def _measure(arguments: argparse.Namespace) -> None:
    from jaxseg.experiments import costs  # imports jax

    try:
        size = tuple(int(n) for n in arguments.size.split(",") if n)
    except ValueError:
        raise ConfigError(f"--size={arguments.size}: must be whole numbers separated by commas, such as 64,64,64") from None
    if min(size, default=1) < 1 or arguments.batch < 1 or not arguments.contains:
        raise ConfigError("jaxseg zoo --measure needs names of networks, and sizes and a batch of at least 1")
    if arguments.alone:
        given = {key: getattr(arguments, key) for key in ("batch", "channels", "classes", "dtype")}
        print(costs.alone(arguments.contains[0], size=size, **given))
        return
    given = [f"--{key}={getattr(arguments, key)}" for key in ("size", "batch", "channels", "classes", "dtype")]
    for line in costs.table(arguments.contains, Path(arguments.output) if arguments.output else None, given):
        print(line, flush=True)


def _given(words: Sequence[str], name: str) -> bool:
    return any(word.partition("=")[0] == f"--{name}" for word in words)


def _doctor(words: Sequence[str]) -> int:
    parser = _parser("doctor")
    parser.add_argument("--require_accelerator", action="store_true", help="end with exit code 1 if jax finds no GPU or TPU")
    parser.add_argument("--clear_cache", action="store_true", help="first delete the compilation cache and the phantom data")
    several = "check the hosts of a run together; start it on all of them, with the next three flags or by srun"
    parser.add_argument("--distributed", action="store_true", help=several)
    parser.add_argument("--coordinator", default=os.environ.get("JAXSEG_COORDINATOR"), help="HOST:PORT of process 0")
    parser.add_argument("--num_processes", type=int, default=os.environ.get("JAXSEG_NUM_PROCESSES"), help="how many processes")
    parser.add_argument("--process_id", type=int, default=os.environ.get("JAXSEG_PROCESS_ID"), help="index of this process")
    arguments = parser.parse_args(words)
    if arguments.distributed:
        from jaxseg.train.processes import connect, examine  # imports jax

        given = arguments.coordinator, arguments.num_processes, arguments.process_id
        connect.leave(examine.examine(*given))
    return doctor.examine(require_accelerator=arguments.require_accelerator, clear=arguments.clear_cache)


def _import(words: Sequence[str]) -> int:
    from jaxseg.importing import command_line  # imports jax

    return command_line.main(words)


def _pretrained(words: Sequence[str]) -> int:
    from jaxseg.pretrained import command_line  # imports jax

    return command_line.main(words)


def _parser(name: str) -> command.Parser:
    return command.Parser(prog=f"jaxseg {name}", description=commands.TOOLS[name].what)


TOOLS: dict[str, Callable[[Sequence[str]], int | None]] = {"init": _init, "zoo": _zoo, "import": _import, "doctor": _doctor}
