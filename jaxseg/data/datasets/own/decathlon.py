"""Any task of the Medical Segmentation Decathlon, and data laid out like one.

    <root>/dataset.json                     "modality", "labels", "training": [{"image": ..., "label": ...}, ...], "test"
    <root>/imagesTr/liver_001.nii.gz        [X, Y, Z], or [X, Y, Z, C] with the channels of "modality"
    <root>/labelsTr/liver_001.nii.gz
    <root>/imagesTs/liver_002.nii.gz        no labels; where there is a folder labelsTs, these cases are the test split

Paths are relative to dataset.json; where it has no lists, files are paired by name. Task01_BrainTumour is read by `brats` too,
with the releases of that challenge.
Source: medicaldecathlon.com (Antonelli et al., arXiv:2106.05735).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.own import description, numbered, patients
from jaxseg.data.datasets.own.channels import read_chosen
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Case, DataSet
from jaxseg.types import DataError
from jaxseg.utils import guard

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

Pair = tuple[Path, Path | None]  # an image and its mask


def recognised(root: Path) -> bool:
    """Return whether a folder has a dataset.json that lists its training cases, or has images without channel numbers."""
    path = root / description.FILE
    if not path.is_file():
        return False
    try:
        content = guard.read_json(path)
        if "training" not in content:
            return "modality" in content and all(map(_unnumbered, _folders(root, "Tr")))
        return (root / content["training"][0]["image"]).is_file()
    except (DataError, LookupError, TypeError):
        return False


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    return root / f"images{part}", root / f"labels{part}"


def _unnumbered(folder: Path) -> bool:
    return folder.is_dir() and bool(pairs.by_stem(folder)) and not numbered.is_numbered(folder)


def load(
    root: str | Path,
    *,
    structures: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    patient: str | None = None,
    ignore: str | None = None,
) -> DataSet:
    """List the cases in dataset.json; those without a mask have mask None.

    Args and errors: as `nnunet_raw.load`.
    """
    root = pairs.holder(Path(root), ("imagesTr",), "a task of the Decathlon")
    about, whose = description.read(root / description.FILE), patients.named_by(patient)
    if "training" in about.content:
        train, test = _listed(about, "training"), _listed(about, "test") if "test" in about.content else {}
    else:
        train, test = _lying(root, "Tr"), _lying(root, "Ts")
    twice = sorted(train.keys() & test.keys())
    if twice:
        raise about.bad(f"case {twice[0]} under training and test", "names of cases must be unique", "rename one")
    chosen = description.chosen(modalities, about.channels, about.path)
    cases = tuple(Case(name, whose(name), (image,), mask) for name, (image, mask) in sorted((train | test).items()))
    return DataSet(
        "decathlon",
        root,
        cases,
        description.agreed("structures", structures, about.labels, about.path),
        about.mask_rule(ignore),
        read_image=functools.partial(read_chosen, about.channels, chosen),
        modalities=chosen,
        regions=about.regions,
        values=about.values,
        left_out=about.leaves_out(ignore),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        held_out=frozenset(whose(name) for name, (_, mask) in test.items() if mask),
        notes=about.count_notes(len(train)),
    )


def _lying(root: Path, part: str) -> dict[str, Pair]:
    """Return {case: (image, mask or None)} of the files in imagesTr or imagesTs, for a dataset.json without lists."""
    images, labels = (pairs.by_stem(folder) if folder.is_dir() else {} for folder in _folders(root, part))
    if part == "Ts" and not labels:
        return {name: (image, None) for name, image in images.items()}
    masks = {name: mask for name, _, mask in pairs.pair(images, labels, without_mask=part == "Ts")}
    return {name: (image, masks.get(name)) for name, image in images.items()}


def _listed(about: description.Description, part: str) -> dict[str, Pair]:
    """Return {case: (image, mask or None)} of one list."""
    root, entries, found = about.path.parent, about.content.get(part), {}
    if not isinstance(entries, list) or part == "training" and not entries:
        raise about.bad(f"no list {part}", f'"{part}" lists the cases')
    for entry in entries:
        image, mask = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(image, str) or not (isinstance(mask, str) or mask is None and part != "training"):
            raise about.bad(f"an entry {guard.shown(entry)} under {part}", 'an entry is {"image": path, "label": path}')
        image = root / image
        name = pairs.stem(image)
        beside = root / "labelsTs" / image.name
        mask = root / mask if mask else beside if beside.is_file() else None
        for path in filter(None, (image, mask)):
            if not path.is_file():
                raise refusal("DATA_MISSING", path, "not there", f"{about.path.name} lists it", "unpack the data set again")
        if name in found:
            raise about.bad(f"case {name} twice under {part}", "names of cases must be unique", "rename one")
        found[name] = (image, mask)
    return found
