"""launch/Dockerfile names what exists: files that it copies, extras, the command that it starts. No image is built here."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOWN = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), lines that a backslash continues joined, comments gone."""
    text = (ROOT / "launch" / "Dockerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_its_instructions_are_of_the_known_kinds_and_begin_from_a_python_that_the_library_takes():
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= KNOWN
    major, minor = map(int, re.fullmatch(r"python:(\d+)\.(\d+)-slim", found[0][1]).groups())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (major, minor) >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert f"Programming Language :: Python :: {major}.{minor}" in project["classifiers"]


def test_what_it_copies_and_installs_exists():
    found = instructions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (source, target), *others = (shlex.split(words) for name, words in found if name == "COPY")
    assert not others and (ROOT / source / "pyproject.toml").is_file()
    (install,) = re.findall(rf"pip install --no-cache-dir '{target}\[([\w,]+)\]'", " ".join(words for _, words in found))
    assert set(install.split(",")) <= set(project["optional-dependencies"]) and "gpu" in install.split(",")
    (entry,) = (words for name, words in found if name == "ENTRYPOINT")
    assert entry == '["jaxseg"]' and "jaxseg" in project["scripts"]


def test_the_context_leaves_out_what_no_image_needs():
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "runs", "build", "real_data"} <= set(left_out)


def test_the_manifests_start_the_image_that_it_builds():
    tag = re.search(r"docker build -f launch/Dockerfile -t (\S+) \.", (ROOT / "launch" / "Dockerfile").read_text())[1]
    for name in ("kubernetes", "jobset", "compare"):
        assert re.findall(r"image: (\S+)", (ROOT / "launch" / f"{name}.yaml").read_text()) == [tag], name
