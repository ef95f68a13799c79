"""jaxseg predict --pretrained=NAME | --task=FILE: segment scans with pretrained networks of other projects.

    pip install --no-deps deepbet==1.0.2
    jaxseg predict --pretrained=deepbet --input=t1.nii.gz --output=brains
    jaxseg predict --pretrained=deepbet --weights=FOLDER --input=scans --output=brains
    jaxseg predict --task=total.json --input=scans --output=organs

The weights of a named network are read from its package, whose code is not imported, or from --weights; a task is a table of
imported runs (`pretrained.task`). Exit codes: 0 done; 64 bad command line; 65 a scan that cannot be used; 66 no weights; 74
storage; 78 weights of another version.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.geometry import to_volume
from jaxseg.data.records import Recipe, Volume
from jaxseg.infer import cases
from jaxseg.pretrained import deepbet, hdbet, task
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import command, files
from jaxseg.utils.lookup import lookup
from jaxseg.weights import pretrained

_ANY = Recipe(size=(), window=None, spacing=None, channels=1, labels=("brain",))  # one volume a case, in any of its formats

_MASKS: dict[str, Callable] = {  # name -> (scan [X, Y, Z] in RAS, mm along its axes, opened networks) -> mask
    "deepbet": lambda scan, spacing, nets: deepbet.brain(scan, nets),
    "hdbet": hdbet.brain,
}
Segment = Callable[[list[Volume]], tuple[np.ndarray, dict[str, int]]]  # images -> (labels in the file's order, name -> value)


def main(arguments: Sequence[str]) -> int:
    """Segment every scan under --input, and print a line for each."""
    parser = command.Parser(prog="jaxseg predict", description=__doc__.splitlines()[0], allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    names = ", ".join(name for name, row in pretrained.TABLE.items() if row.segments)
    which.add_argument("--pretrained", default="", help=f"one of {names}")
    which.add_argument("--task", type=Path, default=None, help="a JSON file: runs whose classes merge into one map by a table")
    parser.add_argument("--input", type=Path, required=True, help="a scan (NIfTI, DICOM series), or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--weights", default="", help="the file or folder of the weights; left out: the installed package's")
    chosen = parser.parse_args(arguments)
    if chosen.task and chosen.weights:
        raise ConfigError(f"--weights={chosen.weights}: is for --pretrained only, because a task names its runs; leave it out")
    found, segment = _task(chosen) if chosen.task else _named(chosen)
    files.make_folder(chosen.output, f"--output={chosen.output}")
    failed = 0
    for case in found:
        try:
            images = case.read()
            labels, values = segment(images)
            written, litre = cases.write_labels(chosen.output, case.name, labels, images[0]), np.prod(images[0].spacing) / 1000
            counts = np.bincount(labels.ravel(), minlength=max(values.values()) + 1)
            sizes = [f"{name} {counts[v]} voxels, {counts[v] * litre:.0f} ml" for name, v in values.items() if counts[v]]
            print(f"{case.name}: {written}, {'; '.join(sizes) or 'nothing found'}", flush=True)
        except DataError as error:
            failed += 1
            print(f"FAILED {case.name}: {error}", flush=True)
    print(f"{len(found) - failed} of {len(found)} written to {chosen.output}" + (f"; {failed} failed" if failed else ""))
    return DataError.exit_code if failed else 0


def _named(chosen) -> tuple[list[cases.Input], Segment]:
    row = lookup("pretrained network", chosen.pretrained, pretrained.TABLE)
    if not row.segments:
        raise ConfigError(
            f"--pretrained={chosen.pretrained} is an encoder for training: --config.model.init=pretrained:{chosen.pretrained}"
        )
    opened = {"deepbet": deepbet, "hdbet": hdbet}[chosen.pretrained].networks
    nets = opened(pretrained.find(chosen.pretrained, chosen.weights))
    print(f"{chosen.pretrained}: {row.network} of {row.package} {row.version}, licence {row.licence}", flush=True)

    def segment(images: list[Volume]) -> tuple[np.ndarray, dict[str, int]]:
        scan, orientation = to_volume(images[0], "ras")
        mask = _MASKS[chosen.pretrained](scan[..., 0] if scan.ndim == 4 else scan, orientation.spacing, nets)
        return orientation.restore(mask.astype(np.uint8)), {"brain": 1}

    return cases.find_cases(chosen.input, _ANY, {"dataset": ""}), segment


def _task(chosen) -> tuple[list[cases.Input], Segment]:
    opened = task.read(chosen.task)
    for note in opened.notes:
        print(f"note: {note}", flush=True)
    first = opened.parts[0].run
    return cases.find_cases(chosen.input, first.recipe, first.record), lambda images: (opened.segment(images), opened.labels)
