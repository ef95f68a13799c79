"""The command line of an exported model: python MODEL --input IMAGE [IMAGE ...] --output LABELS."""

import argparse
import json
import sys
import zipfile
from pathlib import Path

from jaxseg.exporting.runner.images import Refused, write_result
from jaxseg.exporting.runner.model import Model


def main(arguments: list[str] | None = None) -> int:
    """Segment one case, or print what the model is; exit code 0, or 65 for an image that it cannot use."""
    here = Path(__file__).resolve().parent  # the bundle itself, which Python runs
    parser = argparse.ArgumentParser(prog=f"python {here.name}", description="Segment a case with this model.")
    parser.add_argument("--input", nargs="+", metavar="IMAGE", help="its files, one for each modality in the model's order")
    parser.add_argument("--output", metavar="LABELS", help=".nii.gz, .nii, .npy; of a picture .png")
    parser.add_argument("--probabilities", metavar="MAPS", help="write the probability maps too: .nii.gz, .nii or .npy")
    parser.add_argument("--spacing", nargs=3, type=float, metavar=("X", "Y", "Z"), help="of .npy scans: mm along their axes")
    parser.add_argument("--card", action="store_true", help="print the model card and end")
    parser.add_argument("--about", action="store_true", help="print what the model is and how it prepares images, and end")
    chosen = parser.parse_args(arguments)
    if chosen.card or chosen.about:
        with zipfile.ZipFile(here) as file:
            text = file.read("MODEL_CARD.md" if chosen.card else "model.json").decode()
        print(text if chosen.card else json.dumps(json.loads(text), indent=1))
        return 0
    if not chosen.input or not chosen.output:
        parser.error("--input and --output are needed")
    try:
        model = Model(here)
        if model.about["synthetic"]:
            print("note: this model was trained on SYNTHETIC data; its results on patients are meaningless", file=sys.stderr)
        found = model.segment(chosen.input, spacing=chosen.spacing)
        write_result(chosen.output, found.labels, found.image)
        for name, mask in found.structures.items():
            path = Path(chosen.output)
            write_result(path.with_name(f"{name.replace('/', '_')}_{path.name}"), mask.astype("uint8"), found.image)
        if chosen.probabilities:
            write_result(chosen.probabilities, found.probabilities, found.image)
    except (Refused, OSError) as error:
        print(f"{here.name}: {error}", file=sys.stderr)
        return 65
    named = zip(model.about["labels"], model.about["values"])
    print(f"{chosen.output}: " + ", ".join(f"{name} ({value}) {(found.labels == value).sum()} voxels" for name, value in named))
    return 0
