"""An exported model: one zip file that Python runs, with jax and numpy installed.

    model.json       the model, how images are prepared, how the network is applied (`contents`)
    forward.bin      the network, StableHLO for CPUs, CUDA and TPUs (`program`)
    weights/0/*.npy  its arrays by name; weights/1/... of further folds or seeds
    flatbuffers/     the package with which jax reads a program, so that it need not be installed
    runner.py        from images to labels, the modules of runner/ in one; __main__.py calls it
    MODEL_CARD.md    for people (`card`)

Of a cascade, forward.bin and weights/ of its first stage lie in first/, and "first" in model.json describes it.

The same run gives the same bytes.
"""

import ast
import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.exporting import card, program
from jaxseg.exporting.contents import Contents
from jaxseg.types import StorageError

SUFFIX = ".jaxseg"
# of jaxseg/, each after those that it imports from; the first three serve the library too
_RUNNER = ("images", "intensity", "preparation", "windows", "regions", "model", "program")
_MODULES = ("data/exif", "data/text_headers", "data/prepare/splines", *(f"exporting/runner/{name}" for name in _RUNNER))
_MAIN = "import runner\n\nraise SystemExit(runner.main())\n"
_DATE = (2000, 1, 1, 0, 0, 0)


def write(path: Path, contents: Contents) -> list[str]:
    """Write the bundle, and return a report as text lines.

    Raises:
      ConfigError: flatbuffers is not installed.
      StorageError: the file cannot be written.
    """
    binary, about = _program(contents)
    stages = [("", contents, binary)]
    if contents.first is not None:
        code, about["first"] = _program(contents.first)
        stages.append(("first/", contents.first, code))
    texts = {
        "model.json": json.dumps(about, indent=1, sort_keys=True, allow_nan=False),
        "MODEL_CARD.md": card.text(contents.record, about, card.evaluation_of(contents.run)),
        "runner.py": runner_source(),
        "__main__.py": _MAIN,
        **_flatbuffers(),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as file:
            for name, text in texts.items():
                _add(file, name, text.encode(), packed=True)
            for place, stage, code in stages:
                _add(file, f"{place}forward.bin", code, packed=True)
                for number, weights in enumerate(stage.weights):
                    for name, array in zip(stage.network.names, program.arrays_of(stage.network, weights)):
                        content = io.BytesIO()
                        np.save(content, array)
                        _add(file, f"{place}weights/{number}/{name}.npy", content.getvalue(), packed=False)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    size = sum(len(code) for *_, code in stages) / 2**20
    sizes = f"{path.stat().st_size / 2**20:.1f} MiB, the program {size:.2f} of them before packing"
    batch = about["program"]["batch"]
    batches = "batches of any size" if batch is None else f"batches of {batch} alone"
    both = "; both stages of the cascade" if contents.first is not None else ""
    return [f"written: {path} ({sizes}; {', '.join(program.PLATFORMS)}; {batches}{both})"]


def _program(contents: Contents) -> tuple[bytes, dict[str, Any]]:
    """Return (the network's program, the description of the model with the program's inputs and outputs)."""
    binary, batch = program.serialised(contents.network, contents.inputs, contents.about["application"]["batch"])
    inputs = contents.inputs
    return binary, contents.about | {
        "program": {
            "platforms": list(program.PLATFORMS),
            "batch": batch,
            "input": {"size": list(inputs.size), "channels": inputs.channels, "dtype": inputs.dtype},
            "outputs": contents.record["model"]["num_classes"],
            "weights": list(contents.network.names),
            "sets": len(contents.weights),
        }
    }


def _add(file: zipfile.ZipFile, name: str, content: bytes, *, packed: bool) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    entry.external_attr = 0o644 << 16
    file.writestr(entry, content)


def _flatbuffers() -> dict[str, str]:
    """Return the files of the installed package flatbuffers (Apache-2.0, pure Python), with which jax reads a program."""
    found = importlib.util.find_spec("flatbuffers")
    folder = Path(found.submodule_search_locations[0])
    files = sorted(path for path in folder.glob("*.py") if path.name != "flexbuffers.py")
    return {f"flatbuffers/{path.name}": path.read_text(encoding="utf-8") for path in files}


def runner_source() -> str:
    """Join the runner's modules to one source text, with each import once and without imports of each other."""
    plain: set[str] = set()
    taken: dict[str, set[str]] = {}
    bodies, title = [], ""
    for name in _MODULES:
        source = (Path(__file__).parents[1] / f"{name}.py").read_text(encoding="utf-8")
        tree, lines = ast.parse(source), source.splitlines()
        title = ast.get_docstring(tree) or ""
        for node in tree.body:
            at = range(node.lineno - 1, node.end_lineno or node.lineno)
            docstring = isinstance(node, ast.Expr) and node is tree.body[0]
            if isinstance(node, ast.Import):
                plain |= {ast.unparse(node)}
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("jaxseg"):
                taken.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
            if docstring or isinstance(node, ast.Import | ast.ImportFrom):
                for i in at:
                    lines[i] = ""
        bodies.append("\n".join(lines).strip())
    own = 'if __name__ == "__main__":\n    raise SystemExit(main())\n'
    head = (
        f'"""{title.splitlines()[0]}\n\nWritten by jaxseg export. It needs numpy, jax and scipy, which jax brings along.\n"""\n'
    )
    imports = [*sorted(plain), *(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(taken.items()))]
    return "\n\n\n".join([head.strip(), "\n".join(imports), *bodies, own])
