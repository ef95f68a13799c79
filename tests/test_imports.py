"""Who may import whom: arrows point downward. The table is the plan; it changes when the plan does."""

import ast
import collections
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.models.registry import FAMILIES

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "jaxseg"
LEAVES = {"types", "utils"}
# package -> packages it may import (types and utils are open to all but types and utils themselves)
ARROWS = {
    "types": set(),
    "utils": {"types"},
    "ops": set(),
    "layers": {"ops"},
    "models": {"layers", "ops"},
    "weights": {"models", "layers", "checkpoint"},
    "losses": {"ops"},
    "metrics": {"ops"},
    "augment": {"ops"},
    "data": set(),
    "optim": {"ops"},
    "checkpoint": {"config", "data"},  # the kinds of a config's keys and of a recipe, which a record is checked by
    "config": set(),
    "programs": {"ops"},
    "infer": {"models", "data", "metrics", "checkpoint", "ops", "programs"},
    "evaluate": {"infer", "metrics", "data", "models", "ops", "checkpoint", "programs"},
    "train": {
        "models",
        "weights",
        "losses",
        "metrics",
        "augment",
        "data",
        "optim",
        "checkpoint",
        "evaluate",
        "infer",
        "config",
        "ops",
        "programs",
    },
    "reports": {"checkpoint", "config", "evaluate", "metrics"},
    "experiments": {
        "reports",
        "planning",
        "train",
        "evaluate",
        "infer",
        "models",
        "data",
        "metrics",
        "checkpoint",
        "config",
        "ops",
    },
    "planning": {"data"},
    "described": {"config", "data", "train"},
    "preflight": {"config", "train", "evaluate", "data", "losses", "models"},
    "recorded": {"checkpoint", "config"},
    "calls": set(),
    "planned": {"config", "described", "planning", "train", "data"},
    "modes": {
        "calls",
        "described",
        "planned",
        "recorded",
        "config",
        "preflight",
        "experiments",
        "reports",
        "train",
        "evaluate",
        "exporting",
        "infer",
        "data",
        "models",
        "ops",
        "checkpoint",
    },
    "cli": {"config", "recorded", "models"},
    "main": {"cli", "config", "modes", "train"},
    "dispatch": {"cli", "experiments", "importing", "main", "pretrained", "train"},
    "__main__": {"dispatch"},
    "api": {"infer", "checkpoint", "recorded", "data", "metrics"},
    "convert": {"weights"},
    "exporting": {"infer", "weights", "models", "data", "checkpoint", "ops"},
    "pretrained": {"checkpoint", "data", "infer", "models", "weights"},
    "importing": {
        "exporting",
        "cli",
        "planning",
        "programs",
        "train",
        "weights",
        "infer",
        "models",
        "data",
        "metrics",
        "checkpoint",
        "config",
    },
    "bench": {
        "ops",
        "models",
        "weights",
        "layers",
        "losses",
        "infer",
        "data",
        "train",
        "augment",
        "optim",
        "metrics",
        "checkpoint",
    },
    "testing": {"train", "models", "losses", "metrics", "augment", "data", "optim", "checkpoint"},
    "__init__": set(),
}
FILES = sorted(LIBRARY.rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def package(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_follow_the_arrows(path):
    here = package(path)
    assert here in ARROWS, f"package {here!r} is not in the plan: add it to ARROWS with what it may import"
    allowed = ARROWS[here] | {here} | (LEAVES if here not in LEAVES else set())
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "jaxseg" and len(parts) > 1:
            assert parts[1] in allowed or parts[1] == "__version__", f"{here} may not import jaxseg.{parts[1]} ({path.name})"
        assert parts[0] != "configs", f"{path.name} imports configs: the library does not know its experiments"
        if parts[0] == "flax":
            assert here in ("layers", "models"), f"flax in {path.name}: only layers/ and models/ know it"
        if parts[0] in ("torch", "monai", "transformers"):
            assert here == "bench", f"{parts[0]} in {path.name}: only benches and tests import it"
        if parts[0] == "jax":
            assert here not in ("data", "utils", "types", "config", "planning"), (
                f"jax in {path.name}: {here} runs on the host alone"
            )


def test_no_family_imports_another():
    for path in (LIBRARY / "models").rglob("*.py"):
        family = path.relative_to(LIBRARY / "models").parts[0].removesuffix(".py")
        for name in imports(path) if family in FAMILIES else ():
            other = name.removeprefix("jaxseg.models.").split(".")[0]
            assert other == family or other not in FAMILIES, f"{path} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too; `from package import module` counts as the module alone."""
    module = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    graph = {}
    for name, path in module.items():
        found = [n for n in imports(path) if n in module and n != name]
        graph[name] = {n for n in found if not any(other.startswith(n + ".") for other in found)}
    graphlib.TopologicalSorter(graph).prepare()


def file_of(module: str) -> Path | None:
    """The file of a module of ours; None for what is none, such as a class."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@functools.cache
def names_in(path: Path) -> set[str]:
    """What a module's top level, or a branch of it, defines or imports, and the modules below it."""
    found, left = {p.stem for p in path.parent.iterdir()} if path.name == "__init__.py" else set(), list(parsed(path).body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((a.asname or a.name).partition(".")[0] for a in node.names)
        else:
            found.update(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            left += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return found


def test_what_is_taken_from_a_module_is_there():
    """Also in branches that no test enters: a function that moved leaves none behind."""
    missing = []
    for path in sorted([*LIBRARY.rglob("*.py"), *(ROOT / "configs").glob("*.py")]):
        nodes = list(ast.walk(parsed(path)))
        froms = [
            n for n in nodes if isinstance(n, ast.ImportFrom) and n.module and n.module.split(".")[0] in ("jaxseg", "configs")
        ]
        modules = {a.asname or a.name: file for n in froms for a in n.names if (file := file_of(f"{n.module}.{a.name}"))}
        own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        for n in nodes:
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in modules.keys() - own:
                if n.attr not in names_in(modules[n.value.id]) and not n.attr.startswith("__"):
                    missing.append(f"{path.relative_to(ROOT)}:{n.lineno} {n.value.id}.{n.attr}")
    assert not missing


def test_a_class_name_means_one_thing():
    """Outside of models/, whose families each have a Config, an Encoder, ..., and of the bench's ports of them."""
    places = collections.defaultdict(list)
    for path in FILES:
        if package(path) != "models" and path.parent.name != "ports":
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path.relative_to(LIBRARY)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_importing_the_package_is_light():
    code = "import sys, jaxseg; assert not {'jax', 'numpy', 'flax'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_importing_the_packages_touches_no_device_and_no_pytorch():
    code = (
        "import sys, jaxseg.modes, jax._src.xla_bridge as b; "
        "assert not b._backends, 'a backend was initialised at import time'; "
        "assert 'torch' not in sys.modules, 'PyTorch is imported where it is installed'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_packages_hold_a_dozen_modules():
    one_each = {"models": "family", "data/datasets": "layout", "ops/conv/cpu": "lowering"}  # one file each
    for folder in {p.parent for p in FILES}:
        modules = [p.stem for p in folder.glob("*.py") if p.name != "__init__.py"]
        name = str(folder.relative_to(LIBRARY))
        assert len(modules) <= 12 or name in one_each, f"{name} has {len(modules)} modules: {', '.join(sorted(modules))}"


def test_the_way_through_the_code_names_files_that_exist():
    way = (ROOT / "README.md").read_text().partition("## The way through the code")[2]
    named = re.findall(r"`([a-z_0-9/]+\.py)`", way)
    assert len(named) >= 10 and not [p for p in named if not ((ROOT / p).exists() or (LIBRARY / p).exists())]


def test_files_are_chapters():
    everything = [*FILES, *(p for room in ("configs", "tests") for p in (ROOT / room).rglob("*.py"))]
    assert not [str(p) for p in everything if len(p.read_text().splitlines()) > 400]
    lengths = sorted(len(p.read_text().splitlines()) for p in FILES if p.name != "__init__.py")
    assert lengths[len(lengths) // 2] <= 180
    assert not [p for p in FILES if p.name in ("utils.py", "helpers.py", "common.py", "misc.py")]
