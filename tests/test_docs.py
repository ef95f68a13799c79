"""Every page of docs/ shows commands and what they print; here they are typed, and must print it.

A block that begins with ```console holds lines "$ command" ("> " continues one), each followed by its output, in which "..."
stands for anything. The commands of a page run one after the other in one folder, which is empty but for what the page itself
makes. A page with `<!-- slow -->` in its first lines trains networks: it runs with `-m slow`. A tutorial says what its quick form
replaces, `<!-- quick: WORDS -> OTHERS -->`: that form runs with `-m slow`, where each number may be another one, and the page
as it is with `-m tutorial` (`make tutorials`). Both download packages, and skip where pip cannot.
"""

import ast
import doctest
import html
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs._base import base
from jaxseg.config import flatten
from tests import test_notebooks
from tests.reports import browser

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN_ELSEWHERE = {
    "export.md": "tests/exporting/test_bundle.py",  # its commands need a run
    "quick_start_ko.md": "index.md",  # word for word, see below
}
QUICK = re.compile(r"<!-- quick: (.+?) -> (.*?) -->")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[tuple[str, str]]:
    """(command, output) of a page, in order."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = part.splitlines()
            more = list(itertools.takewhile(lambda line: line.startswith("> "), lines))
            found.append(("\n".join([first, *(line[2:] for line in more)]), "\n".join(lines[len(more) :])))
    return found


def forms(page: Path) -> list:
    """(page, what its quick form replaces), with the marker under which it runs."""
    head = page.read_text()[:600]
    replaced = QUICK.findall(head)
    if replaced:
        quick = pytest.param(page, replaced, id=f"{page.stem}-quick", marks=pytest.mark.slow)
        return [quick, pytest.param(page, [], id=page.stem, marks=pytest.mark.tutorial)]
    return [pytest.param(page, [], id=page.stem, marks=[pytest.mark.slow] if "<!-- slow -->" in head else [])]


def desk(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An empty folder, and an environment in which `jaxseg` and `python` are those that run the tests."""
    (tmp_path / "bin").mkdir()
    for name, starts in (("jaxseg", "-m jaxseg"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {starts} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    place = tmp_path / "here"
    place.mkdir()
    return place, {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {  # one device, as users have
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAXSEG_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "130",
    }


@pytest.mark.parametrize("page, quick", [form for page in PAGES if page.name not in RUN_ELSEWHERE for form in forms(page)])
def test_a_page_prints_what_it_shows(page, quick, tmp_path):
    shown = commands(page)
    assert shown, f"{page.name} runs nothing; a page shows at least one command with its output"
    place, environment = desk(tmp_path)
    check = doctest.OutputChecker()
    for command, wanted in shown:
        for words, others in quick:
            command = command.replace(words, others)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=place,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
        if done.returncode and (command.startswith("pip download") or "jaxseg.data.acquire" in command):
            pytest.skip(f"{page.name}: $ {command}: {done.stdout.strip().splitlines()[-1]}")
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        any_number = (lambda text: re.sub(r"\d+(\.\d+)?", "1", text)) if quick else (lambda text: text)
        if not check.check_output(any_number(wanted.strip()) or "...", any_number(done.stdout.strip()), flags):
            pytest.fail(f"{page.name}: $ {command}\n--- shown\n{wanted}\n--- printed\n{done.stdout}", pytrace=False)


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(tmp_path):
    """That of the photograph, in its page's quick form: commands in a shell, Python in one process, as in a kernel."""
    page = ROOT / "docs" / "tutorial_cells.md"
    place, environment = desk(tmp_path)
    program = "import subprocess\ndef shell(command):\n    assert not subprocess.call(command, shell=True), command\n"
    for cell in json.loads(test_notebooks.file_of(page).read_text())["cells"]:
        code = "".join(cell["source"])
        for words, others in QUICK.findall(page.read_text()):
            code = code.replace(words, others)
        if cell["cell_type"] == "code":
            program += (f"shell({code[1:]!r})" if code.startswith("!") else code) + "\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env=environment, capture_output=True, text=True, timeout=900
    )
    if "AssertionError: pip download" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert "125 nuclei" in done.stdout and "of an empty result 0.00" in done.stdout


def test_the_korean_page_types_what_the_english_one_types():
    korean, english = ((ROOT / "docs" / name).read_text() for name in ("quick_start_ko.md", "index.md"))
    assert BLOCK.findall(korean) == BLOCK.findall(english) != []
    typed = lambda text: re.sub(r" *#.*", "", "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)))
    assert typed(korean) == typed(english) != ""
    others = "\n".join(page.read_text() for page in (*PAGES, ROOT / "README.md") if page.name != "quick_start_ko.md")
    assert not [code for code in re.findall(r"`(jaxseg [^`]+)`", korean) if code not in others]


def test_the_copy_button_gives_what_is_typed(tmp_path):
    page = ROOT / "docs" / "coming_from.md"
    shown = "".join(
        f"<p class=language-console><code>{html.escape(block)}</code></p>" for block in BLOCK.findall(page.read_text())
    )
    script = (ROOT / "docs" / "assets" / "copy.js").read_text()
    steps = "return { copied: [...document.querySelectorAll('[data-copy]')].map((e) => e.dataset.copy).join('\\n') };"
    found = browser.driven(f"<title></title><body>{shown}<script>{script}</script></body>", tmp_path, steps, width=2000)
    assert found == {"copied": "\n".join(command for command, _ in commands(page))}


def test_every_page_stands_in_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    assert not [page.name for page in PAGES if f"- {page.name}\n" not in site and f": {page.name}\n" not in site]


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md"]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}"
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
            slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, f"{page.name} links to {target}#{anchor}"


def test_the_page_of_errors_lists_every_code_of_the_library():
    listed = set(re.findall(r"`(DATA_[A-Z]+)`", (ROOT / "docs" / "errors.md").read_text()))
    raised = {c for path in (ROOT / "jaxseg").rglob("*.py") for c in re.findall(r'"(DATA_[A-Z]+)"', path.read_text())}
    assert listed == raised


def test_messages_that_the_page_of_errors_explains_are_printed():
    rows = re.search(r"^## Messages.*?(?=^## )", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    said = re.findall(r"^\| `(.*?)` \|", rows, re.MULTILINE)
    printed = "\n".join(itertools.chain(*(_texts(path) for path in (ROOT / "jaxseg").rglob("*.py"))))
    assert len(said) > 10 and not [text for text in said if text.strip("… ") not in printed]


def test_published_figures_of_the_page_of_recipes_are_those_of_the_configs():
    rows = re.findall(r"^\| `jaxseg train (\w+).*?` \|(.*)$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for config, row in rows:
        text = (ROOT / "configs" / f"{config}.py").read_text()
        missing = [figure for figure in re.findall(r"(?<=[ (]|0)\.\d+", row) if figure not in text]
        assert not missing, f"{config}: {missing}"


def _texts(path: Path) -> list[str]:
    """The strings of a module, an f-string with … for each value, but for docstrings."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            found.append(node.value)
    return found


def test_keys_that_pages_name_exist():
    keys = flatten(base().to_dict())
    groups = {key.partition(".")[0] for key in keys if "." in key}
    for page in [*PAGES, ROOT / "README.md", ROOT / "launch" / "README.md"]:
        for group, name in re.findall(r"[`.](?:config\.)?(\b[a-z]+)\.([a-z_]+)\b(?!\()", BLOCK.sub("", page.read_text())):
            module = any((ROOT / "jaxseg" / group / place).exists() for place in (f"{name}.py", name))
            assert group not in groups or module or name in ("py", "json", "pt", "html") or f"{group}.{name}" in keys, (
                f"{page.name} names config.{group}.{name}"
            )
