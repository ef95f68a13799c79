"""Every command that a page tells its reader to type is one that the program takes.

`tests/test_docs.py` types what stands in ```console blocks and compares what is printed. All others, in ```sh and indented blocks
and in the text, are read here: a command of this project is parsed, its config resolved and checked as at its start, with run
folders of the names that it uses; of pip the extras and packages are compared with pyproject.toml, files that a command names
must exist. A command of a kind that nobody knows here fails.
"""

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from jaxseg.cli import commands
from tests import untrained
from tests.test_docs import BLOCK, PAGES, ROOT

TEXTS = (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md")
RUN = {  # page -> blocks of it that another test runs as they are
    "README.md": ".venv/bin/python",  # .ci/run, in a fresh clone
    "plugins.md": "jaxseg train folder --config.data.root=scans",  # tests/testing/test_plugins_page.py
}
OTHERS = (  # programs that are not ours; what they are given is this project's only where the test looks at it
    *(
        "git clone ",
        "apt-get download mricron-data",
        "dpkg-deb -x mricron-data_",
        "tensorboard --logdir=runs",
        "cd ",
        "pre-commit ",
    ),
    *("source .venv/bin/activate", "export XLA_FLAGS=--xla_force_host_platform_device_count=", "python3 -m venv .venv"),
    *(
        "docker build -f launch/Dockerfile",
        "docker run ",
        "torchrun ",
        "mkdocs build --strict",
        "mkdocs serve",
        "python -m http.server",
    ),
)
PACKAGES = (
    "torch",
    "ruff",
    "mypy",
    "pre-commit",
    "tensorboard",
    "mkdocs",
    "deepbet",
    "nltools",
    "stardist",
    "nbformat",
    "jupyter",
)
PLACES = {  # what a page writes for something of the reader's -> such a thing
    r"=\.\.\.": "=/data/mine",
    r"\bMODEL_FOLDER\b": "nnUNet_results/theirs",
    r"\bBUNDLE\b": "bundle",
    r"\b(OTHER_LABELLED_FOLDER|LABELLED|DIR|IN|FILE)\b": "/data/mine",
    r"\bOUT\b": "out",
    r"\b(FOLDER\[/MODEL\]|RUN)\b": "runs/mine",
    r"\bNAME\b": "ich_segnext",
    r"=I\b": "=1",
}
EXPERIMENT = "brats_compare"
EXAMPLES = [command.example for command in (commands.MODES | commands.TOOLS).values()]
CONFIGS = sorted((ROOT / "configs").glob("[a-z]*.py"))


def typed(page: Path) -> list[str]:
    """The commands of a page but for its ```console blocks, in order, each once."""
    text, found = BLOCK.sub("", page.read_text()), []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if RUN.get(page.name, "\0") not in block:
            found += _lines(block)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found += _lines("\n".join(re.findall(r"^ {4}(\S.*|  +\S.*)$", text, re.MULTILINE)))
    words = (
        r"(?:\.venv/bin/)?(?:jaxseg|python3?|pip|make|sbatch|kubectl|launch/\w+\.sh|torchrun|docker|mkdocs|apt-get|tensorboard)"
    )
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    found += [code for code in inline if re.match(rf"{words} [^=]", code) and not re.search(r" \.\.\.|…|COMMAND|[<>]", code)]
    return list(dict.fromkeys(part for command in found for part in command.split(" && ")))


def _lines(block: str) -> list[str]:
    """The commands of a block: comments are gone, lines that end with a backslash or inside of quotes are joined."""
    found, open_line = [], ""
    for line in block.splitlines():
        open_line += ("\n" if open_line else "") + line
        try:
            words = shlex.split(open_line.replace("\\\n", " "), comments=True)
        except ValueError:  # inside of quotes
            continue
        if not open_line.endswith("\\"):
            found += [shlex.join(words).replace("'&&'", "&&")] if words else []
            open_line = ""
    assert not open_line, open_line
    return found


@pytest.fixture(scope="module")
def take(program, tmp_path_factory):
    """A function that runs a command line up to its first computation, in a folder with runs, a plan and data of all names."""
    place = tmp_path_factory.mktemp("typed")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place), "PYTHONPATH": str(ROOT), "JAXSEG_CACHE": str(place / "cache")}
    run = untrained.make(place / "run", untrained.config(untrained.write(place / "data", 3), 3))
    heads = (config.read_text() for config in CONFIGS)
    all_typed = "\n".join([*(command for page in TEXTS for command in typed(page)), *EXAMPLES, *heads])
    for name in set(re.findall(r"\bruns/[\w/-]+", all_typed)) | {"runs/mine", f"runs/{EXPERIMENT}/unet3d_s/24"}:
        (place / name).mkdir(parents=True, exist_ok=True)
        for part in ("run.json", "checkpoints"):
            (place / name / part).symlink_to(run / part)
    about = {"best_by_validation": "unet3d_s", "models": {}}
    about["models"]["unet3d_s"] = {"folder": "unet3d_s", "runs": ["unet3d_s/24"], "planned": 1, "val_dice": 0.5}
    (place / "runs" / EXPERIMENT / "comparison.json").write_text(json.dumps(about))
    written = program.start(  # large enough for a cascade
        "--mode=plan",
        f"--config={ROOT / 'configs' / 'folder.py'}",
        f"--config.data.root={untrained.write(place / 'large', 3, 4, (60, 60, 60))}",
        "--config.plan.rules=nnunet",
        "--config.plan.memory_gb=0.1",
        f"--output={place / 'plan.py'}",
        environment=environment,
    ).end()
    assert written.returncode == 0, written.stderr

    understood = set()  # several pages tell the same

    def take(words: list[str]):
        if tuple(words) in understood:
            return
        path = [str(ROOT), str(ROOT / "tests" / "train")]  # the network of the runs is a path
        before = f"import os, sys; os.chdir({str(place)!r}); sys.path[:0] = {path}; from tests import understood\n"
        before += f"understood.take({words!r})"
        done = program.start(environment=environment, before=before, seconds=60).end()
        assert done.returncode == 0 and "understood" in done.stdout, (words, done.stdout, done.stderr)
        understood.add(tuple(words))

    return take


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_tells_to_type_is_understood(page, take):
    for command in typed(page):
        _check(_placed(command), take)


@pytest.mark.slow
def test_the_examples_of_the_overview_of_commands_are_understood(take):
    for command in EXAMPLES:
        _check(_placed(command), take)


@pytest.mark.full
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_what_the_head_of_a_config_tells_to_type_is_understood(config, take):
    found = _of_head(config)
    assert found
    for command in found:
        _check(_placed(command), take)


def _of_head(config: Path) -> list[str]:
    """The commands among the indented lines of a config's docstring."""
    head = ast.literal_eval(config.read_text().partition('"""\n')[0] + '"""')
    lines = re.findall(r"^ {4}((?:python -m|jaxseg) .*(?:(?<=\\)\n.*)*)$", head, re.MULTILINE)
    commands = [command for line in lines for command in _lines(line)]
    return [part for command in commands for part in command.split(" && ")]


def _placed(command: str) -> list[str]:
    """The words of a command, with files and folders of the test where a page names the reader's."""
    for said, there in PLACES.items():
        command = re.sub(said, there, command)
    return shlex.split(command)


def _check(words: list[str], take) -> None:
    """One command."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    command = shlex.join(words)
    if words[0] == "jaxseg" and (
        len(words) == 2 and words[1].isalpha() or words[1:] in (["import", "nnunet"], ["import", "monai"])
    ):
        # spoken of, not typed so
        assert words[1] in commands.MODES | commands.TOOLS, command
    elif words[:2] == ["python", "-m"] and len(words) == 3:
        assert importlib.util.find_spec(words[2]), command
    elif words[0] == "jaxseg" or (words[:2] == ["python", "-m"] and words[2].startswith("jaxseg")):
        take(words)
    elif words[0] == "pip" or words[:3] == ["python", "-m", "pip"]:
        _pip([word for word in words if not word.startswith("-")][-1 if words[0] == "python" else 0 :], command)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests"))
    elif words[0] == "python" and words[1] == "launch/local.py":
        take(["python", "-m", "jaxseg.main", *words[words.index("--") + 1 :]])
    elif words[0] == "python" and words[1].endswith(".jaxseg"):
        known = (ROOT / "jaxseg" / "exporting" / "runner" / "program.py").read_text()
        assert all(f'"{word}"' in known for word in words[2:] if word.startswith("--"))
    elif words[0] == "python" or words[0].startswith((".ci/", "launch/")) or words[0] in ("sbatch", "kubectl"):
        _script([word for word in words if word != "python"], command, take)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    else:
        assert f"{command} ".replace("'", "").startswith(OTHERS), f"no test knows what {command!r} should be"


def _script(words: list[str], command: str, take) -> None:
    """A file of this project, and what it hands on to the program."""
    at = next((i for i, word in enumerate(words) if (ROOT / word).is_file()), None)
    assert at is not None, f"{command}: no such file in the project"
    rest = words[at + 1 :]
    if words[at] == "launch/ssh.sh":
        take(["jaxseg", *rest[1:]])
    elif words[at] == "launch/compare.sh":
        take(["jaxseg", "compare", *rest])
    elif words[at] == "launch/slurm.sh":
        take(["python", "-m", "jaxseg.main", *rest])
    else:
        assert not rest, f"{command}: no test knows what it does with {rest}"


def _pip(words: list[str], command: str) -> None:
    """What pip is told to install or download exists: this project only from its folder, extras as pyproject has them."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        if word.startswith("."):
            asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
            assert asked and set(filter(None, (asked[1] or "").split(","))) <= set(extras), command
        elif word not in ("pip", "install", "download", "real_data", "python"):
            assert re.split(r"[=<>]", word)[0] in PACKAGES, command


def test_the_reader_of_pages_finds_what_is_typed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Type `jaxseg zoo\nunet`, or `jaxseg.load(x)`.\n\n```sh\njaxseg train a \\\n  --b='(1,\n2)'  # why\nx && y\n```\n\n"
        "    jaxseg c\n```console\n$ jaxseg d\n```\n"
    )
    assert typed(page) == ["jaxseg train a '--b=(1,\n2)'", "x", "y", "jaxseg c", "jaxseg zoo unet"]
