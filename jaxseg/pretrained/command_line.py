"""jaxseg predict --pretrained=NAME --input=FILE_or_DIR --output=DIR: segment scans with a network that others have trained.

    pip install --no-deps deepbet==1.0.2
    jaxseg predict --pretrained=deepbet --input=t1.nii.gz --output=brains
    jaxseg predict --pretrained=deepbet --weights=FOLDER --input=scans --output=brains

The weights come from the package, whose code is not imported, or from --weights. Exit codes: 0 done; 64 bad command line; 65 a
scan that cannot be used; 66 no weights; 74 storage; 78 weights of another version.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxseg.data.geometry import to_volume
from jaxseg.data.records import Recipe
from jaxseg.infer import cases
from jaxseg.pretrained import deepbet
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import command, files
from jaxseg.utils.lookup import lookup
from jaxseg.weights import pretrained

_ANY = Recipe(size=(), window=None, spacing=None, channels=1, labels=("brain",))  # one volume a case, in any of its formats


def main(arguments: Sequence[str]) -> int:
    """Segment every scan under --input; one line for each."""
    parser = command.Parser(prog="jaxseg predict", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--pretrained", required=True, help=f"one of {', '.join(n for n, row in pretrained.TABLE.items() if row.segments)}"
    )
    parser.add_argument("--input", type=Path, required=True, help="a scan (NIfTI, DICOM series), or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--weights", default="", help="the file or folder of the weights; left out: the installed package's")
    chosen = parser.parse_args(arguments)
    row = lookup("pretrained network", chosen.pretrained, pretrained.TABLE)
    if not row.segments:
        raise ConfigError(
            f"--pretrained={chosen.pretrained} is an encoder to train with: --config.model.init=pretrained:{chosen.pretrained}"
        )
    nets = deepbet.networks(pretrained.find(chosen.pretrained, chosen.weights))
    print(f"{chosen.pretrained}: {row.network} of {row.package} {row.version}, licence {row.licence}", flush=True)
    found = cases.find_cases(chosen.input, _ANY, {"dataset": ""})
    files.make_folder(chosen.output, f"--output={chosen.output}")
    failed = 0
    for case in found:
        try:
            print(f"{case.name}: {_one(case, chosen.output, nets)}", flush=True)
        except DataError as error:
            failed += 1
            print(f"FAILED {case.name}: {error}", flush=True)
    print(f"{len(found) - failed} of {len(found)} written to {chosen.output}" + (f"; {failed} failed" if failed else ""))
    return DataError.exit_code if failed else 0


def _one(case: cases.Input, output: Path, nets) -> str:
    """What was found in a case, whose mask is written."""
    (image,) = case.read()
    scan, orientation = to_volume(image, "ras")
    mask = deepbet.brain(scan[..., 0] if scan.ndim == 4 else scan, nets)
    written = cases.write_labels(output, case.name, orientation.restore(mask.astype("uint8")), image)
    x, y, z = orientation.spacing
    return f"{written}, brain {mask.sum()} voxels, {mask.sum() * x * y * z / 1000:.0f} ml"
