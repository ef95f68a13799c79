"""notebooks/ holds two tutorials of docs/ as notebooks; they are written from the pages.

Run as a program this file writes them anew: `python tests/test_notebooks.py`. `make notebooks` executes them.
"""

import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("tutorial_cells", "tutorial_organs")]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def notebook(page: Path) -> str:
    """A page as a notebook: text in Markdown cells, commands behind "!", Python of here-documents as Python."""
    text = re.sub(r"<!--.*?-->\n", "", page.read_text())
    text = re.sub(r"\]\((?!\w+:|#)", "](../docs/", text)
    first = "The library is installed in the kernel's environment: `pip install -e '.[dicom]'` in a clone of the project.\n"
    cells, end = [_cell("markdown", f"Written from docs/{page.name} by `python tests/test_notebooks.py`.\n\n{first}")], 0
    for match in FENCE.finditer(text):
        cells.append(_cell("markdown", text[end : match.start()]))
        end = match.end()
        if match[1] == "console":
            cells += [_cell("code", code) for code in _codes(match[2])]
        else:
            cells.append(_cell("markdown", match[0]))
    cells.append(_cell("markdown", text[end:]))
    cells = [cell for cell in cells if cell["source"]]
    for i, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{page.name} {i}".encode()).hexdigest()[:8]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return (
        json.dumps({"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"
    )


def _cell(kind: str, text: str) -> dict:
    lines = text.strip("\n").splitlines(keepends=True)
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": lines, **code}


def _codes(block: str) -> list[str]:
    """The commands of a ```console block as code of a notebook."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        more = [line[2:] for line in itertools.takewhile(lambda line: line.startswith("> "), rest)]
        if first == "python - <<'END'":
            found.append("\n".join(more[:-1]))
        else:
            found.append("!" + " ".join(line.removesuffix("\\").strip() for line in [first, *more]))
    return found


def file_of(page: Path) -> Path:
    return ROOT / "notebooks" / f"{page.stem.removeprefix('tutorial_')}.ipynb"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_that_of_its_page(page):
    assert file_of(page).read_text() == notebook(page), "python tests/test_notebooks.py writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_has_the_form_of_its_format(page):
    found = json.loads(file_of(page).read_text())
    codes = ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]
    assert sum(code.startswith("!jaxseg ") for code in codes) >= 2 and len({cell["id"] for cell in found["cells"]}) == len(
        found["cells"]
    )
    for code in codes:
        if not code.startswith("!"):
            compile(code, file_of(page).name, "exec")
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[docs]'")
    nbformat.validate(nbformat.from_dict(found))


if __name__ == "__main__":
    for one in PAGES:
        file_of(one).parent.mkdir(exist_ok=True)
        file_of(one).write_text(notebook(one))
