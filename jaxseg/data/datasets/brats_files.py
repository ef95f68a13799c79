"""The BraTS release in a folder, recognised by the names of its folders and files alone, and the files of each case.

    2017-2019   {HGG,LGG}/Brats18_<site>_<n>_1/Brats18_<site>_<n>_1_{t1,t1ce,t2,flair,seg}.nii.gz   (BraTS19_ in 2019)
    2020        BraTS20_Training_001/BraTS20_Training_001_{...}.nii; case 355 has its mask in W39_1998.09.19_Segm.nii
    2021        BraTS2021_00000/BraTS2021_00000_{...}.nii.gz
    2023        BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz; also SSA, MEN, PED, MET
    2024        BraTS-GLI-00005-100/...: named as in 2023, examinations after treatment are numbered from 100
    msd         imagesTr/BRATS_001.nii.gz with four channels, labelsTr/BRATS_001.nii.gz (Medical Segmentation Decathlon)

Label values are not used: 4 is enhancing tumour until 2021 and the resection cavity in 2024, and a case may have neither. Every
name may end in .nii or .nii.gz.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxseg.data.datasets import pairs
from jaxseg.data.formats.discover import has_suffix, visible_entries
from jaxseg.data.formats.nifti import SUFFIXES
from jaxseg.data.formats.refusal import refusal
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import guard
from jaxseg.utils.lookup import lookup, unknown_name

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

MODALITIES = ("t1", "t1ce", "t2", "flair")
CODES = {  # last word of a file's name, in small letters: what it is
    "t1": "t1",
    "t1n": "t1",
    "t1w": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "seg": "seg",
    "segm": "seg",
}
CASES = {  # layout: names of its cases, the patient in parentheses
    "2017": r"(Brats17_.+)_\d+",
    "2018": r"(Brats18_.+)_\d+",
    "2019": r"(BraTS19_.+)_\d+",
    "2020": r"(BraTS20_(?:Training|Validation)_\d+)",
    "2021": r"(BraTS2021_\d+)",
    "2023": r"(BraTS-GLI-\d+)-0\d\d|(BraTS-(?:SSA|MEN|PED|MET)-\d+)-\d+",
    "2024": r"(BraTS-GLI-\d+)-[1-9]\d\d",
}
MSD = r"BRATS_\d+"
RELEASES = (*CASES, "msd")
GRADES = ("HGG", "LGG")
DEPTH = 3  # folders between the root and a case, at most
_REMEDY = "give the folder of one release as it was unpacked"


class CaseFiles(NamedTuple):
    """The files of one case."""

    id: str
    patient: str
    folder: Path
    grade: str  # "HGG", "LGG", or "" where the layout does not say
    files: dict[str, Path]  # of "t1", "t1ce", "t2", "flair", "seg": those that are there; "all" for the four channels of msd


def modality(name: str) -> str:
    """Return the usual name of a modality: "T1Gd", "t1c" and "t1ce" are "t1ce".

    Raises:
      ConfigError: no such modality.
    """
    known = {code: what for code, what in CODES.items() if what != "seg"}
    if not isinstance(name, str) or name.lower() not in known:
        raise unknown_name("modality", str(name), known)
    return known[name.lower()]


def find(root: Path, release: str | None = None) -> tuple[str, list[CaseFiles]]:
    """Return the release in a folder and its cases, sorted by name.

    Args:
      root: the folder of the cases, or one up to DEPTH levels above.
      release: one of RELEASES where the names leave it open: data of 2024 under names of 2023, or the reverse.
    Raises:
      ConfigError: an unknown release, or one that the names contradict.
      DataError: DATA_MISSING for no layout or several, DATA_PATH for a duplicate case or file.
    """
    if release is not None:
        lookup("release", str(release), dict.fromkeys(RELEASES))
    folders, packed = _walk(root)
    counts = {name: len(cases) for name, cases in (*folders.items(), ("msd", packed)) if cases}
    open_names = {"2023", "2024"}  # one way of naming
    if release in open_names and counts.keys() <= open_names and counts:
        folders = {release: [pair for cases in folders.values() for pair in cases]}
        counts = {release: len(folders[release])}
    if len(counts) != 1:
        looked = ", ".join([*(f"{name}: {pattern}" for name, pattern in CASES.items()), f"msd: imagesTr/{MSD}.nii.gz"])
        there = _some(e.name for e in visible_entries(root)) if root.is_dir() else "no such folder"
        here = ", ".join(f"{n} cases of {name}" for name, n in counts.items()) or there or "an empty folder"
        raise refusal("DATA_MISSING", root, f"{len(counts)} layouts ({here})", f"exactly one of: {looked}", _REMEDY)
    named = next(iter(counts))
    if release not in (None, named):
        raise ConfigError(
            f"got release={release!r} for cases named as those of {named} in {root}; the names decide, only 2023 "
            "and 2024 share theirs: leave release out"
        )
    cases = _packed(packed) if named == "msd" else [_case(folder, patient, root) for folder, patient in folders[named]]
    cases.sort(key=lambda case: case.id)
    for first, second in zip(cases, cases[1:]):
        if first.id == second.id:
            raise refusal(
                "DATA_PATH",
                second.folder,
                f"case {first.id} a second time, beside {first.folder}",
                "a case has one folder",
                "remove one of them",
            )
    return named, _graded(cases, root) if named == "2020" else cases


def images(case: CaseFiles, modalities: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of these modalities, in this order.

    Raises:
      DataError: DATA_MISSING, naming the case, the modality and the files that are there.
    """
    for wanted in modalities:
        if wanted not in case.files:
            there = [e.name for e in visible_entries(case.folder) if has_suffix(e, SUFFIXES)]
            codes = " or ".join(code for code, what in CODES.items() if what == wanted)
            raise refusal(
                "DATA_MISSING",
                case.folder,
                f"case {case.id} has no {wanted}, but {_some(there) or 'no .nii file'}",
                f"{wanted} ends in {codes} before .nii or .nii.gz",
                "add the file, leave the case out, or leave the modality out",
            )
    return tuple(case.files[wanted] for wanted in modalities)


def _walk(root: Path) -> tuple[dict[str, list[tuple[Path, str]]], dict[str, tuple[Path, Path | None]]]:
    """({layout: [(case folder, patient)]}, {stem: (image, mask or None)} of the Decathlon's files) under a folder."""
    folders: dict[str, list[tuple[Path, str]]] = {}
    packed: dict[str, tuple[Path, Path | None]] = {}
    level = [root] if root.is_dir() else []
    layout, patient = _layout(root.resolve().name)
    if layout and level and any(has_suffix(e, SUFFIXES) for e in visible_entries(root)):  # the folder of one case
        return {layout: [(root, patient)]}, packed
    for _ in range(DEPTH):
        below = []
        for folder in level:
            for entry in visible_entries(folder):
                if not entry.is_dir():
                    continue
                layout, patient = _layout(entry.name)
                if layout:
                    folders.setdefault(layout, []).append((entry, patient))
                elif entry.name == "imagesTr":
                    packed |= _decathlon(entry)
                else:
                    below.append(entry)
        level = below
    return folders, packed


def _layout(name: str) -> tuple[str, str]:
    """(layout, patient) of a case folder's name; ("", "") where it is none."""
    for layout, pattern in CASES.items():
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match:
            return layout, match[match.lastindex]
    return "", ""


def _case(folder: Path, patient: str, root: Path) -> CaseFiles:
    files: dict[str, Path] = {}
    for entry in visible_entries(folder):
        if not entry.is_file() or not has_suffix(entry, SUFFIXES):
            continue
        stem = re.sub(r"\.nii(\.gz)?$", "", entry.name, flags=re.IGNORECASE)
        what = CODES.get(re.split(r"[_-]", stem)[-1].lower())
        if what is None or what != "seg" and not stem.lower().startswith(folder.name.lower()):
            continue
        if what in files:
            raise refusal(
                "DATA_PATH",
                entry,
                f"{what} of case {folder.name} a second time, beside {files[what].name}",
                "one file per modality and one mask per case",
                "remove one of them",
            )
        files[what] = entry
    above = [part.upper() for part in (root.name, *folder.relative_to(root).parts[:-1])]
    return CaseFiles(folder.name, patient, folder, next((g for g in GRADES if g in above), ""), files)


def _decathlon(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """{stem: (image, mask or None)} of a folder imagesTr, where its files are named as those of Task01."""
    of_task = lambda found: {stem: path for stem, path in found.items() if re.fullmatch(MSD, stem)}
    volumes = of_task(pairs.by_stem(folder, SUFFIXES))
    masks = of_task(pairs.by_stem(folder.parent / "labelsTr", SUFFIXES)) if volumes else {}
    alone = sorted(masks.keys() - volumes.keys())
    if alone:
        raise refusal(
            "DATA_MISSING",
            masks[alone[0]],
            f"no image of the same name in {folder.name}, so for {len(alone)} masks",
            "images and masks are paired by name",
            "add the image or remove the mask",
        )
    return {stem: (path, masks.get(stem)) for stem, path in volumes.items()}


def _packed(found: dict[str, tuple[Path, Path | None]]) -> list[CaseFiles]:
    return [
        CaseFiles(stem, stem, image.parent, "", {"all": image} | ({"seg": mask} if mask else {}))
        for stem, (image, mask) in found.items()
    ]


def _graded(cases: list[CaseFiles], root: Path) -> list[CaseFiles]:
    """The cases of 2020 with the grades of name_mapping.csv, where that file lies beside them or above."""
    beside = [p for p in {c.folder.parent for c in cases} | {root} if (p / "name_mapping.csv").is_file()]
    grades: dict[str, str] = {}
    for path in sorted(p / "name_mapping.csv" for p in beside):
        try:
            for row in csv.DictReader(io.StringIO(guard.read_text(path))):
                grades[row["BraTS_2020_subject_ID"]] = row["Grade"]
        except (DataError, csv.Error, KeyError) as error:
            raise refusal(
                "DATA_TABLE",
                path,
                f"cannot be read ({type(error).__name__}: {error})",
                "a comma-separated text with columns Grade and BraTS_2020_subject_ID",
                "unpack it again, or remove it and go without grades",
            ) from error
    known = {case: grade for case, grade in grades.items() if grade in GRADES}
    return [case._replace(grade=known.get(case.id, "")) for case in cases]


def _some(items: Iterable[str], limit: int = 8) -> str:
    items = list(items)
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")
