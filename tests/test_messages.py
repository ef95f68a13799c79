"""Every key, command, extra and config file that a text of the library names exists."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from configs._base import base
from jaxseg.config import flatten
from jaxseg.importing import monai

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "jaxseg").rglob("*.py"), *(ROOT / "configs").glob("*.py")])
KEYS = flatten(base().to_dict())
GROUPS = {key.partition(".")[0] for key in KEYS if "." in key}


def texts(path: Path) -> list[str]:
    """The string literals of a module, its docstrings too; what a format inserts is a word of its own."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


TEXTS = {path: texts(path) for path in FILES}


def named(pattern: str) -> dict[str, str]:
    """What a pattern finds in the texts, and a file that says it."""
    return {
        m[1]: str(path.relative_to(ROOT)) for path, some in TEXTS.items() for text in some for m in re.finditer(pattern, text)
    }


def test_every_key_that_a_text_names_exists():
    lacking = {}
    for name, where in named(r"\bconfig\.([a-z_]+\.[a-z_]+)").items():
        if name.partition(".")[0] in GROUPS and name not in KEYS:
            lacking[name] = where
    assert not lacking, lacking


# names of modules, files and entries of a record that look like keys
NO_KEYS = {"data.formats", "data.pkl", "infer.cascade", "infer.tiles", "model.in_channels", "model.jaxseg", "model.json"}
NO_KEYS |= {"data.datasets", "data.yaml", "model.pt", "optim.joined", "train.mesh"}
NO_KEYS |= {"model.num_classes", "model.rank", "optim.build", "plan.py", "report.html", "search.db", "train.step"}


def test_every_key_without_its_prefix_exists_too():
    found = named(rf"(?<![\w./-])((?:{'|'.join(sorted(GROUPS))})\.[a-z_]+)\b(?![(\\])")
    short = {name: where for name, where in found.items() if not any(key.startswith(name) for key in KEYS)}
    assert {name: where for name, where in short.items() if name not in NO_KEYS} == {}


def test_no_text_advises_what_only_a_caller_in_python_can_give():
    leaves = {key.rpartition(".")[2] for key in KEYS}
    advised = named(r"\b(?:raise|lower|increase|enlarge)\s+([a-z]+_[a-z_]+)\b(?!\.)")
    assert {name: where for name, where in advised.items() if name not in leaves} == {}


@pytest.mark.parametrize("pattern, root", [(r"(configs/\w+\.py)", ROOT), (r"(docs/\w+\.md)", ROOT)])
def test_every_file_that_a_text_names_exists(pattern, root):
    assert not {name: where for name, where in named(pattern).items() if not (root / name).is_file()}


def test_every_command_that_a_text_names_exists():
    lacking = {n: w for n, w in named(r"python -m (jaxseg(?:\.\w+)*)").items() if importlib.util.find_spec(n) is None}
    assert not lacking


def test_every_extra_that_a_text_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not {name: where for name, where in named(r"(?:jaxseg|\.)\[(\w+)\]'").items() if name not in extras}


# what other programs take, and the options of projects that a comment quotes
OF_OTHERS = {"connected", "dest", "dim", "format", "gpu", "network", "query-gpu", "tb", "trilinear", "use_mri_augmentation"}
OF_OTHERS |= {"use_mri_augmentation", "disable-pip-version-check", "no-binary", "no-deps", "shm-size", "help", "helpfull"}
OF_OTHERS |= {"helpshort", "version", "flag"}


def test_every_option_that_a_text_names_exists():
    calls = [n for path in FILES for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    name = lambda call: getattr(call.func, "attr", getattr(call.func, "id", ""))
    words = [a for c in calls if name(c).startswith(("DEFINE_", "add_argument")) for a in c.args if isinstance(a, ast.Constant)]
    defined = {word.value.lstrip("-") for word in words if isinstance(word.value, str)} | OF_OTHERS | set(monai.FLAGS)
    options = named(r"(?<![\w-])--([a-z][a-z_-]*[a-z])")
    assert not {option: where for option, where in options.items() if option not in defined and not option.startswith("xla_")}
    assert not {o for o in OF_OTHERS if o not in options}, "no text names these any more"
