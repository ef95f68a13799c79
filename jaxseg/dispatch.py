"""From `jaxseg COMMAND NAME ...` to the mode or tool that does it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxseg.cli import commands, doctor, manual, recipes, zoo
from jaxseg.utils import command
from jaxseg.utils.lookup import lookup


def run(argv: list[str]) -> None:
    """Run a command to its exit code.

    Args:
      argv: the command line, the program's name first.
    """
    words = argv[1:]
    if not words or words[0] in (*manual.HELP, "help"):
        command.run("jaxseg", lambda: print(manual.overview()))
    elif words[0] in manual.VERSION:
        command.run("jaxseg", lambda: print(manual.asked(argv)))
    elif words[0] in commands.MODES:
        from jaxseg import main  # defines its flags

        main.run(as_mode(words[0], words[1:]))
    else:
        command.run("jaxseg", lambda: _tool(words[0], words[1:]))


def as_mode(name: str, words: Sequence[str]) -> list[str]:
    """The command line of `python -m jaxseg.main` for a mode: its first word without dashes is its config or its run."""
    first = [f"--{commands.MODES[name].word}={words[0]}"] if words and not words[0].startswith("-") else []
    return ["jaxseg", f"--mode={name}", *first, *words[len(first) :]]


def _tool(name: str, words: Sequence[str]) -> int | None:
    lookup("command", name, commands.MODES | commands.TOOLS)
    return TOOLS[name](words)


def _init(words: Sequence[str]) -> None:
    parser = _parser("init")
    parser.add_argument("name", help=f"one of {', '.join(recipes.names())}")
    parser.add_argument("--output", default=".", help="a folder, or a file to write; this folder when not given")
    arguments = parser.parse_args(words)
    written = recipes.copy(arguments.name, Path(arguments.output))
    print(f"wrote {written}; edit it, then: jaxseg train {written}")


def _zoo(words: Sequence[str]) -> None:
    parser = _parser("zoo")
    parser.add_argument("contains", nargs="*", metavar="NAME", help="networks whose names contain it, with their parameters")
    contains = parser.parse_args(words).contains
    if not contains:
        print(zoo.names())
    for line in zoo.table(contains) if contains else ():
        print(line, flush=True)


def _doctor(words: Sequence[str]) -> int:
    parser = _parser("doctor")
    parser.add_argument("--require_accelerator", action="store_true", help="end with 1 where jax sees no GPU or TPU")
    parser.add_argument("--clear_cache", action="store_true", help="delete the compilation cache and the phantoms first")
    arguments = parser.parse_args(words)
    return doctor.examine(require_accelerator=arguments.require_accelerator, clear=arguments.clear_cache)


def _import(words: Sequence[str]) -> int:
    from jaxseg.importing import command_line  # imports jax

    return command_line.main(words)


def _parser(name: str) -> command.Parser:
    return command.Parser(prog=f"jaxseg {name}", description=commands.TOOLS[name].what)


TOOLS: dict[str, Callable[[Sequence[str]], int | None]] = {"init": _init, "zoo": _zoo, "import": _import, "doctor": _doctor}
