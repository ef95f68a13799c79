"""docs/architecture.md is drawn from the table of imports that tests/test_imports.py holds: it cannot go stale.

Run as a program this file writes the page anew: `python tests/test_architecture_page.py`.
"""

import ast
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
INTRODUCTION = """# Architecture

Files of images become numpy examples in `data`; Grain feeds them; a network that knows only arrays (`models`, built from
`layers`, which call compiled kernels in `ops`) turns them into logits inside one jitted, sharded step (`train`); `infer`
runs the same network over whole images and volumes; `metrics` scores them; `main` is the door.

An arrow means "may import"; arrows that follow from others are left out, and so are `types` and `utils`, which everything may
import. `tests/test_imports.py` holds the table, and this page is written from it by `python tests/test_architecture_page.py`.

Reading images and checking configs need no jax, so that a slip is answered at once:

```console
$ python -c "import sys, jaxseg.cli.recipes, jaxseg.config, jaxseg.data.formats.volumes; print('jax' in sys.modules)"
False
```
"""
PLACES = """## Where to look

| what | where |
|---|---|
| a file becomes an array | `data/formats/volumes.py`: `read_volume` calls the reader of each format |
| a DICOM series becomes an array | `data/formats/dicom.py`: `read_dicom`; `data/formats/dicom_slice.py`: `read_pixels` |
| pictures, slices and volumes part ways | `data/layout.py`: `of` |
| an image becomes the network's input | `data/prepare/examples.py`: `prepare` |
| add a data set | `data/datasets/__init__.py`: a module with `load`, and its line in `MODULES` |
| a convolution picks its kernel | `ops/conv/dispatch.py`, by `ops/conv/cpu/choose.py` and `ops/conv/gpu/choose.py` |
| a network is applied: whole, windows, cascade | `infer/network.py`; `infer/run.py`: `application_of` chooses |
| the training loop, and one step | `train/loop.py`, `train/step.py` |
| a key of the config | `config/rules.py` checks it, `train/setup.py` reads it |
"""


def arrows() -> dict[str, set[str]]:
    """Package -> packages that it may import, from tests/test_imports.py, without `types`, `utils` and the top-level package."""
    spec = importlib.util.spec_from_file_location("test_imports", ROOT / "tests" / "test_imports.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hidden = {"types", "utils", "__init__"}
    return {name: set(allowed) - hidden for name, allowed in module.ARROWS.items() if name not in hidden}


def reachable(name: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that `name` reaches over one arrow or more."""
    found, todo = set(), list(graph[name])
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += graph.get(at, ())
    return found


def drawn(graph: dict[str, set[str]]) -> list[str]:
    """The arrows that do not follow from others."""
    lines = []
    for name, allowed in graph.items():
        indirect = set().union(*(reachable(other, graph) for other in allowed)) if allowed else set()
        lines += [f"  {name} --> {other}" for other in sorted(allowed - indirect)]
    return lines


def about(name: str) -> str:
    """The first sentence of the docstring of a package or module."""
    path = ROOT / "jaxseg" / name / "__init__.py"
    text = ast.get_docstring(ast.parse((path if path.exists() else path.parent.with_suffix(".py")).read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def rooms() -> list[str]:
    """The packages inside of packages, as "data.store"."""
    found = (path.parent.relative_to(ROOT / "jaxseg") for path in (ROOT / "jaxseg").glob("*/**/__init__.py"))
    return sorted(".".join(path.parts) for path in found if len(path.parts) > 1)


def page() -> str:
    graph = arrows()
    inner = [f"| `jaxseg.{name}` | {about(name.replace('.', '/'))} |" for name in rooms()]
    table = [f"| `jaxseg.{name}` | {about(name)} |" for name in sorted(graph)]
    return "\n".join(
        [
            INTRODUCTION,
            "```mermaid",
            "flowchart TD",
            *drawn(graph),
            "```",
            "",
            "| package | what it holds |",
            "|---|---|",
            *table,
            "",
            PLACES,
            "## Packages inside of packages",
            "",
            "| package | what it holds |",
            "|---|---|",
            *inner,
            "",
        ]
    )


def test_the_architecture_page_shows_the_imports_as_they_are():
    assert PAGE.read_text() == page(), "run python tests/test_architecture_page.py"


def test_every_package_says_what_it_holds():
    assert not [name for name in (*arrows(), *rooms()) if len(about(name.replace(".", "/"))) < 20]


def test_the_places_to_look_exist_and_hold_what_is_named():
    for row in PLACES.splitlines()[4:]:
        words = re.findall(r"`([^`]+)`", row)
        files = [ROOT / "jaxseg" / word for word in words if word.endswith(".py")]
        text = "".join(path.read_text() for path in files)
        assert files and not [word for word in words if not word.endswith(".py") and word not in text], row


def test_no_package_reaches_itself():
    graph = arrows()
    assert not [name for name in graph if name in reachable(name, graph)]


if __name__ == "__main__":
    PAGE.write_text(page())
