"""Lungs in chest X-rays: Shenzhen, Montgomery, JSRT with SCR masks, and the folders of the left/right lung project.

    Shenzhen     <root>/CXR_png/CHNCXR_0001_0.png (662; _0 normal, _1 tuberculosis), mask or masks/CHNCXR_0001_0_mask.png
                 (566 of them: pictures without a mask are left out); one mask of both lungs. Kaggle's merged folder,
                 which adds Montgomery's pictures with masks without "_mask", reads the same
    Montgomery   <root>/CXR_png/MCUCXR_0001_0.png (138), ManualMask/{leftMask,rightMask}/<same name>, sides of the patient
    JSRT         <root>/All247images/JPCLN001.IMG (247; JPCNN: no nodule), fold1 and fold2/masks/{left lung,right lung,heart,
                 left clavicle,right clavicle}/JPCLN001.gif (SCR), in <root> or one folder down
    left/right   <root>/image/resize_CHNCXR_0539_1.png, annotation/<same name> of 0, 1 (image-left lung), 2

Sides are the patient's, as radiologists and SCR name them: the left lung lies on the image's right. The left/right lung
project names them by the image: its class 1, "left", is the lung on the image's left, the patient's right one. `naming`
chooses.
"""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.datasets import lung_files, pairs
from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.formats.discover import visible_entries
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import masks
from jaxseg.data.records import Case, DataSet, Meaning, Volume
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

VERSION = 2  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

SIDES = ("left lung", "right lung")
LABELS = SIDES
WHOLE = ("lung",)
SCR = (*SIDES, "heart", "left clavicle", "right clavicle")
NAMINGS = ("patient", "image")
_PNG = (".png",)
_OPPOSITE = {"left": "right", "right": "left"}

phantom = lung_files.phantom


def load(root: str | Path, *, structures: Sequence[str] = SIDES, naming: str = "patient") -> DataSet:
    """List the pictures of a folder that has one of the four layouts.

    Args:
      root: the folder as unpacked, or the one that holds it.
      structures: ("lung",) for both lungs as one class, or names in the order of the classes: "left lung", "right lung",
        and for JSRT "heart", "left clavicle", "right clavicle".
      naming: "patient" or "image": whose left; labels by the image are called "left lung of the image".
    Raises:
      ConfigError: unknown naming or structure.
      DataError: DATA_MISSING for missing files, DATA_PATH for other names of files.
    """
    lookup("naming", naming, dict.fromkeys(NAMINGS))
    label_count(structures)
    name, found, cases = _find(Path(root))
    both = (*SIDES, *WHOLE)
    regions = {"shenzhen": both, "montgomery": both, "left_right": both, "jsrt": (*SCR, *WHOLE)}
    for structure in structures:
        lookup(f"structure of the {name} set", structure, dict.fromkeys(regions[name]))
    labels = tuple(f"{s} of the image" if naming == "image" and s in SCR and s != "heart" else s for s in structures)
    return DataSet(
        "lungs",
        found,
        cases,
        labels,
        functools.partial(masks.map_mask, len(structures)),
        stratum=stratum,
        synthetic=(found / "SYNTHETIC.txt").is_file(),
        read_image=lung_files.read_image,
        read_mask=functools.partial(read_mask, name, tuple(structures), naming),
    )


def label_count(structures: Sequence[str] = SIDES) -> int:
    """Number of foreground classes.

    Raises:
      ConfigError: structures that are not a sequence of distinct known names, or "lung" beside one of its sides.
    """
    classes = count_structures(structures, SIDES)
    for structure in structures:
        lookup("structure", structure, dict.fromkeys((*SCR, *WHOLE)))
    if "lung" in structures and set(structures) & set(SIDES):
        raise ConfigError(f"got structures={tuple(structures)!r}; a pixel has one class: take 'lung' or its two sides")
    return classes


def stratum(case: Case) -> str:
    """Return the finding in the file's name: "normal", "finding", or ""."""
    return case.meta["finding"]


def split_columns(lungs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both lungs [H, W] -> (image-left, image-right): columns up to the first empty one after the first filled, and the rest.

    Raises:
      ValueError: no empty column between two filled ones.
    """
    filled = np.flatnonzero(lungs.any(axis=0))
    gaps = np.flatnonzero(np.diff(filled) > 1)
    if not gaps.size:
        raise ValueError(f"no empty column between the lungs ({filled.size} filled columns in a row)")
    edge = filled[gaps[0]] + 1
    columns = np.arange(lungs.shape[1])
    return lungs & (columns < edge), lungs & (columns >= edge)


def read_mask(name: str, structures: tuple[str, ...], naming: str, case: Case, image: Volume) -> Volume:
    """Read the classes of a case on its picture's grid; where structures overlap, the later one in `structures` wins.

    Raises:
      DataError: DATA_LABEL for lungs that the column rule cannot separate, or other values; as `volumes.read_volume`.
    """
    regions, meaning = _READERS[name](case, structures)  # by the patient's sides
    classes = None
    for number, structure in enumerate(structures, 1):
        chosen = _other_side(structure) if naming == "image" else structure
        region = regions[chosen]
        classes = np.zeros(region.shape, np.uint8) if classes is None else classes
        classes[region] = number
    classes = lung_files.upsample(classes, image.array.shape[:2], case.mask)
    return Volume(classes, image.affine, image.header, case.mask, meaning)


def _other_side(structure: str) -> str:
    """Return the structure's name with left and right exchanged."""
    side, _, rest = structure.partition(" ")
    return f"{_OPPOSITE[side]} {rest}" if side in _OPPOSITE else structure


def _by_columns(case: Case, structures: tuple[str, ...]) -> tuple[dict[str, np.ndarray], tuple[Meaning, ...]]:
    mask = lung_files.read_mask(case.mask)
    return _sides(mask.array > 0, case, structures), _named(mask.meaning, "lung")


def _sides(lungs: np.ndarray, case: Case, structures: tuple[str, ...]) -> dict[str, np.ndarray]:
    if structures == WHOLE:
        return {"lung": lungs}
    if not lungs.any():
        return dict.fromkeys(SIDES, lungs)
    try:
        image_left, image_right = split_columns(lungs)
    except ValueError as error:
        raise refusal(
            "DATA_LABEL",
            case.mask,
            str(error),
            "the two lungs are separated by the empty column between them",
            "correct the mask, leave the file out, or set data.structures=('lung',)",
        ) from None
    return {"left lung": image_right, "right lung": image_left}


def _by_annotation(case: Case, structures: tuple[str, ...]) -> tuple[dict[str, np.ndarray], tuple[Meaning, ...]]:
    """Read the left/right lung project's annotation, in which 1 is the lung on the image's left."""
    mask = masks.read(case.mask, len(SIDES))
    raw = mask.array
    return {"right lung": raw == 1, "left lung": raw == 2, "lung": raw > 0}, _named(mask.meaning, *SIDES[::-1])


def _by_parts(case: Case, structures: tuple[str, ...]) -> tuple[dict[str, np.ndarray], tuple[Meaning, ...]]:
    """Read one file per structure: case.mask and case.parts in the order of meta["regions"]."""
    files = dict(zip(case.meta["regions"], (case.mask, *case.parts)))
    wanted = {name for s in structures for name in (SIDES if s == "lung" else (s, _other_side(s)))}
    read = {n: lung_files.read_mask(files[n]) for n in files if n in wanted}
    regions = {n: mask.array > 0 for n, mask in read.items()}
    if structures == WHOLE or "lung" in structures:
        regions["lung"] = regions["left lung"] | regions["right lung"]
    return regions, tuple(m for n, mask in read.items() for m in _named(mask.meaning, n))


def _named(meaning: tuple[Meaning, ...], *classes: str) -> tuple[Meaning, ...]:
    """Return the meanings of a file's values with the names of the file's own classes."""
    return tuple(m._replace(name=("background", *classes)[m.label]) for m in meaning)


_READERS: dict[str, Callable] = {
    "shenzhen": _by_columns,
    "montgomery": _by_parts,
    "jsrt": _by_parts,
    "left_right": _by_annotation,
}


def _find(root: Path) -> tuple[str, Path, tuple[Case, ...]]:
    """(layout, its folder, cases) of the folder or the only layout one folder down."""
    inside = [d for d in visible_entries(root) if d.is_dir()] if root.is_dir() else []
    found = [(name, make, d) for d in (root, *inside) for name, make in _LAYOUTS.items() if _marks(name, d)]
    if len(found) != 1:
        which = ", ".join(f"{name} in {d.name}" for name, _, d in found)
        raise refusal(
            "DATA_MISSING",
            root,
            f"{len(found)} layouts{f' ({which})' if which else ''}",
            "it holds one of Shenzhen (CXR_png, mask), Montgomery (CXR_png, ManualMask), JSRT (All247images and "
            "SCR's fold1, fold2) or the left/right lung project (image, annotation)",
            "give the folder of one of them",
        )
    name, make, folder = found[0]
    return name, folder, make(folder)


def _marks(name: str, folder: Path) -> bool:
    """Return whether a folder has the files that identify a layout."""
    has = lambda *names: all((folder / n).is_dir() for n in names)
    return {
        "montgomery": lambda: has("CXR_png", "ManualMask"),
        "jsrt": lambda: has("All247images"),
        "shenzhen": lambda: has("CXR_png") and not has("ManualMask") and (has("mask") or has("masks")),
        "left_right": lambda: has("image", "annotation"),
    }[name]()


def _shenzhen(root: Path) -> tuple[Case, ...]:
    masks = pairs.by_stem(root / ("mask" if (root / "mask").is_dir() else "masks"), _PNG, ending="_mask")
    return tuple(
        _case(stem, image, mask)
        for stem, image, mask in pairs.pair(pairs.by_stem(root / "CXR_png", _PNG), masks, without_mask=True)
    )


def _montgomery(root: Path) -> tuple[Case, ...]:
    left, right = (pairs.by_stem(root / "ManualMask" / f, _PNG) for f in ("leftMask", "rightMask"))
    pairs.pair(left, right)
    images = pairs.by_stem(root / "CXR_png", _PNG)
    return tuple(_case(stem, image, mask, SIDES, (right[stem],)) for stem, image, mask in pairs.pair(images, left))


def _jsrt(root: Path) -> tuple[Case, ...]:
    images, folds = pairs.by_stem(root / "All247images", (".img",)), lung_files.scr_folds(root)
    files = {s: {k: v for fold in folds for k, v in pairs.by_stem(fold / "masks" / s, (".gif",)).items()} for s in SCR}
    for structure in SCR[1:]:
        pairs.pair(files[SCR[0]], files[structure])
    return tuple(
        _case(stem, image, mask, SCR, tuple(files[s][stem] for s in SCR[1:]))
        for stem, image, mask in pairs.pair(images, files[SCR[0]])
    )


def _left_right(root: Path) -> tuple[Case, ...]:
    return tuple(
        _case(stem, image, mask)
        for stem, image, mask in pairs.pair(
            pairs.by_stem(root / "image", _PNG), pairs.by_stem(root / "annotation", _PNG), without_mask=True
        )
    )


_LAYOUTS: dict[str, Callable] = {"shenzhen": _shenzhen, "montgomery": _montgomery, "jsrt": _jsrt, "left_right": _left_right}


def _case(stem: str, image: Path, mask: Path, regions: tuple[str, ...] = (), parts: tuple[Path, ...] = ()) -> Case:
    match = re.search(r"_([01])$", stem)
    finding = ("normal", "finding")[int(match[1])] if match else {"JPCLN": "finding", "JPCNN": "normal"}.get(stem[:5], "")
    patient = re.sub(r"^resize_|_[01]$", "", stem)
    return Case(stem, patient, (image,), mask, {"finding": finding, **({"regions": list(regions)} if regions else {})}, parts)
