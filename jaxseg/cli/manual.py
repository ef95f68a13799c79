"""The texts of --help and --version: the commands, the flags, and every config key with its default and description.

Keys and descriptions are read from the source of configs/_base.py and its comments.
"""

import re
import textwrap

import jaxseg
from jaxseg.cli import commands, recipes

HELP, VERSION = ("-h", "--help", "-help", "--helpfull", "--helpshort"), ("--version", "-version")
_GROUP = re.compile(r"    c\.(\w+) = (\w+) = ConfigDict\(\)(?:\s+# (.*))?$")
_KEY = re.compile(r"    (\w+)\.(\w+) = (.*?)(?:\s+# (.*))?$")


def asked(argv: list[str]) -> str:
    """The text of --help or --version if the command line has one of them, else "".

    Args:
      argv: the command line, starting with the program's name.
    """
    words = [word.partition("=")[0] for word in argv[1:]]
    if set(words) & set(VERSION):
        return f"jaxseg {jaxseg.__version__}"
    return of_modes() if set(words) & set(HELP) else ""


def overview() -> str:
    """The help of `jaxseg`: every command with an example."""
    known = commands.MODES | commands.TOOLS
    configs = recipes.about()
    width, widest = (max(map(len, names)) for names in (known, configs))
    indent = " " * (widest + 4)
    wrapped = lambda text: f"\n{indent}".join(textwrap.wrap(text, 108))
    lines = [f"  {name:<{width}}  {c.what}\n  {'':<{width}}    {c.example}" for name, c in known.items()]
    return "\n".join(
        [
            f"jaxseg {jaxseg.__version__}: training and inference for medical image segmentation in JAX",
            "",
            "usage: jaxseg COMMAND [NAME] [--flag=value ...] [--config.key=value ...]",
            "       (the same as python -m jaxseg.main --mode=COMMAND --config=FILE ...)",
            "",
            *lines,
            "",
            "configs that come with jaxseg (jaxseg init NAME copies one, to read and to edit):",
            *(f"  {name:<{widest}}  {wrapped(text)}" for name, text in configs.items()),
            "",
            "jaxseg COMMAND --help lists all flags and all keys of a config.",
        ]
    )


def of_modes() -> str:
    """The help of the modes: the flags, and the config keys by group."""
    from jaxseg.cli import flags

    lines = ["usage: python -m jaxseg.main --mode=MODE --config=FILE[:arguments] [--flag=value ...] [--config.key=value ...]", ""]
    for flag in flags.ALL:
        default = "" if flag.default in (None, "", False) else f" [{flag.default}]"
        lines += textwrap.wrap(
            f"--{flag.name}{default}: {' '.join(flag.help.split())}", 118, initial_indent="  ", subsequent_indent="      "
        )
    lines += ["", "exit codes: 0 success; 42 stopped by SIGTERM after saving; 64 command line or config; 65 data; 66 checkpoint;"]
    lines += ["  74 storage; 75 another process was lost; 76 non-finite values; 78 mismatch", ""]
    lines += ["config keys, set by --config.KEY=VALUE (shown with the general defaults, which a config file may change):"]
    for group, keys in keys_by_group().items():
        lines += ["", f"{group or 'top level'}"]
        for key, (default, comment) in keys.items():
            name = f"{group}.{key}" if group else key
            lines += textwrap.wrap(f"{name} = {default}", 118, initial_indent="  ", subsequent_indent="      ")
            lines += textwrap.wrap(comment, 118, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def keys_by_group() -> dict[str, dict[str, tuple[str, str]]]:
    """{group: {key: (default as written, comment)}} of configs/_base.py; keys without a group under ""."""
    groups: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    alias = {"c": ""}
    last: tuple[str, str] | None = None
    for line in (recipes.folder() / "_base.py").read_text(encoding="utf-8").splitlines():
        if group := _GROUP.match(line):
            alias[group[2]] = group[1]
            groups[group[1]] = {}
            last = None
        elif (key := _KEY.match(line)) and key[1] in alias and key[2] not in ("defaults", "embedded"):
            last = (alias[key[1]], key[2])
            groups[last[0]][last[1]] = (_plain(key[3]), key[4] or "")
        elif last and line.strip().startswith("# "):  # a comment that continues on the next line
            default, comment = groups[last[0]][last[1]]
            groups[last[0]][last[1]] = (default, f"{comment} {line.strip()[2:]}")
        else:
            last = None
    return groups


def _plain(default: str) -> str:
    """A default as a user would type it: None for optional keys, {} for options."""
    optional = re.fullmatch(r"_optional\(\w+(?:, (.*))?\)", default)
    return (optional[1] or "None") if optional else "{}" if default == "ConfigDict()" else default
