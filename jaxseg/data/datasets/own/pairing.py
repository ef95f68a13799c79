"""Pair the files below `images` and `masks` by their names.

images/anna.png                          an image of case anna; images/ward/anna.png one of case ward/anna
images/anna_0000.nii.gz, anna_0001 ...   its channels by number, where the masks are named without
images/anna_t1.nii.gz, anna_flair.nii.gz     its channels by name, where every mask has the same of them; or by data.suffixes
images/anna/                             a DICOM series
masks/anna.png                           its mask, possibly with a common ending (anna_mask.png)
masks/liver/anna.png, masks/anna_liver.png    masks of one structure each
anna.png, anna_mask.png                  both in one folder; the mask's name ends in "_" or "-" and one of WORDS
anna/ct.nii.gz, anna/mask.nii.gz         a folder for each case: files of equal names, the mask's among WORDS, are its channels
anna_mask.png, anna_mask_1.png, ...      several masks of one image, numbered: what is inside any of them is the structure
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.own import unmasked
from jaxseg.data.formats.discover import files_and_folders, has_suffix, holds_dicom
from jaxseg.data.formats.own import readable
from jaxseg.data.formats.refusal import refusal
from jaxseg.types import ConfigError

WORDS = ("mask", "seg", "segmentation", "label", "labels", "gt", "truth", "ground_truth", "annotation")  # what masks are called
ONE = "foreground"  # the structure that numbered masks of an image are parts of
IMAGE_REMEDY = (
    "add the image or remove the file; where a case has a file for each channel, say what their names end in: "
    "--config.data.suffixes=\"('_t1','_flair')\""
)
_NUMBERED = re.compile(r"(.+)_(\d{4})")
_PART = re.compile(rf"(.+?)[-_](?:{'|'.join(WORDS)})(?:[-_]?\d+)?")  # the name of a mask beside its image


class Paired(NamedTuple):
    """Cases by name, sorted.

    Attributes:
      images: each case's files, one for each channel.
      masks: each case's mask files by structure; for a mask with all classes the structure is "". {} if a case has no mask.
      structures: names of the structures; () if a mask holds all classes.
      channels: names of the channels that the files of a case hold; () if a case has one file.
      suffixes: what the names of the channels' files end in, where that tells them apart; else ().
    """

    images: dict[str, tuple[Path, ...]]
    masks: dict[str, dict[str, tuple[Path, ...]]]
    structures: tuple[str, ...]
    channels: tuple[str, ...]
    suffixes: tuple[str, ...] = ()


def paired(images: Path, masks: Path, suffixes: Sequence[str] | None = None, *, without_masks: bool = False) -> Paired:
    """Pair the images and masks of two folders, or of one.

    Args:
      images, masks: the folders; the same folder twice: names of masks end in one of WORDS.
      suffixes: data.suffixes, what the names of a case's channels end in ("_t1", "_flair"); None: one file per case, nnU-Net's
        numbers, or the endings that the names of all images have beside their masks' names.
      without_masks: images may lack a mask.
    Raises:
      ConfigError: the suffixes are not a list of distinct words.
      DataError: DATA_MISSING for an image or a mask without the other, DATA_PATH for two files of the same name.
    """
    found, truth = (_below(images), _below(masks)) if images != masks else _parted(_below(images))
    if suffixes is None and images != masks:
        suffixes = _endings(found, truth) or None
    if suffixes is None and images == masks and not truth:
        cases, truth, channels = _of_folders(found)
    elif suffixes is not None:
        cases, channels = _by_suffix(found, suffixes), tuple(s.strip("_-. ") or s for s in suffixes)
    else:
        cases, channels = {name: (path,) for name, path in found.items()}, ()
        numbers = {name: _NUMBERED.fullmatch(name) for name in found}
        if found and all(numbers.values()) and not found.keys() & truth.keys():
            count = 1 + max(int(m.group(2)) for m in numbers.values())
            cases = _by_suffix(found, [f"_{c:04d}" for c in range(count)])
            channels = tuple(f"channel {c}" for c in range(count)) if count > 1 else ()
    endings = tuple(suffixes or ())
    by_structure = _by_structure(cases, truth)
    structures = tuple(sorted({name for parts in (by_structure or {}).values() for name in parts}))
    if len(structures) == 1 and not (masks / structures[0]).is_dir():  # a common ending: anna_mask.png
        parts = {name: files for name, by_name in by_structure.items() for files in by_name.values()}
        if all(len(files) == 1 for files in parts.values()):
            truth, by_structure = {name: files[0] for name, files in parts.items()}, None
        else:
            by_structure, structures = {name: {ONE: files} for name, files in parts.items()}, (ONE,)
    order = sorted(cases)
    if by_structure is None:  # a mask a case
        firsts = {name: files[0] for name, files in cases.items()}
        pairs.pair(firsts, truth, without_mask=without_masks, remedy=unmasked.REMEDY, image_remedy=IMAGE_REMEDY)
        held = {name: {"": (truth[name],)} if name in truth else {} for name in order}
        return Paired({name: cases[name] for name in order}, held, (), channels, endings)
    alone = [name for name in order if name not in by_structure]
    if alone and not without_masks:
        raise refusal(
            "DATA_MISSING",
            cases[alone[0]][0],
            f"no mask of {', '.join(structures)}, so for {len(alone)} images",
            "every image has a mask of one structure at least, empty if there is none of it",
            unmasked.REMEDY,
        )
    masks_of = {name: by_structure.get(name, {}) for name in order}
    return Paired({name: cases[name] for name in order}, masks_of, structures, channels, endings)


def side_by_side(folder: Path) -> bool:
    """Whether a folder, or a sub-folder, holds a mask beside its image, or sub-folders hold a case each."""
    if holds_cases(folder):
        return True
    known = readable()
    for here in (folder, *files_and_folders(folder)[1]) if folder.is_dir() else ():
        names = {pairs.stem(entry) for entries in files_and_folders(here) for entry in entries if has_suffix(entry, known)}
        if any(_is_mask(name, names) for name in names):
            return True
    return False


def images_without_masks(folder: Path) -> dict[str, tuple[Path]]:
    """{case: its files} of a folder that holds masks beside its images, those without a mask too."""
    if holds_cases(folder):
        return dict(sorted(_of_folders(_below(folder))[0].items()))
    return {name: (path,) for name, path in sorted(_parted(_below(folder))[0].items())}


def holds_cases(folder: Path) -> bool:
    """Whether all files lie in sub-folders that hold a case each, at least one of them with its mask."""
    annotated = 0
    for above, files in _folders(folder) if folder.is_dir() else ():
        masks = sum(stem.lower() in WORDS for stem, _ in files)
        if files and (not above or len(files) < 2 or masks > 1):  # seen at once in most other folders, however many lie there
            return False
        annotated += masks
    return annotated > 0


def images_by_folder(folder: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """{case: its files} of sub-folders that hold the same `channels` images each and perhaps a mask; {} where they do not."""
    by_folder = _by_folder(_below(folder)) if folder.is_dir() else {}
    stems = {tuple(sorted(name for name in files if name.lower() not in WORDS)) for files in by_folder.values()}
    if "" in by_folder or len(stems) != 1 or len(next(iter(stems))) != channels:
        return {}
    return dict(sorted(_of_folders(_below(folder))[0].items()))


def _by_folder(found: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """{folder: {stem: file}}."""
    by_folder: dict[str, dict[str, Path]] = {}
    for name, path in found.items():
        folder, _, stem = name.rpartition("/")
        by_folder.setdefault(folder, {})[stem] = path
    return by_folder


def _of_folders(found: Mapping[str, Path]) -> tuple[dict[str, tuple[Path, ...]], dict[str, Path], tuple[str, ...]]:
    """Return ({case: its images}, {case: its mask}, names of the channels if there are several) of folders of a case each."""
    by_folder = _by_folder(found)
    stems = sorted({name for files in by_folder.values() for name in files if name.lower() not in WORDS})
    for files in by_folder.values():
        if absent := [name for name in stems if name not in files]:
            raise refusal(
                "DATA_MISSING",
                next(iter(files.values())).parent,
                f"no {absent[0]}, only {', '.join(files)}",
                f"every folder of a case holds {', '.join(stems)}, its channels",
                "add the file, or remove the files that the other cases do not have",
            )
    cases = {case: tuple(files[name] for name in stems) for case, files in by_folder.items()}
    truth = {case: path for case, files in by_folder.items() for name, path in files.items() if name.lower() in WORDS}
    return cases, truth, tuple(stems) if len(stems) > 1 else ()


def _parted(found: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """(images, masks) of the files of one folder."""
    truth = {name: path for name, path in found.items() if _is_mask(name, found)}
    return {name: path for name, path in found.items() if name not in truth}, truth


def _is_mask(name: str, names: Collection[str]) -> bool:
    match = _PART.fullmatch(name)
    return match is not None and match[1] in names


def images_by_suffix(folder: Path, suffixes: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """{case: its files, one for each suffix} of images alone, sorted by case; errors as `paired`."""
    return dict(sorted(_by_suffix(_below(folder), suffixes).items()))


def _below(folder: Path) -> dict[str, Path]:
    """{path below the folder without suffix, with /: file} of images, and folders that are a DICOM series."""
    found: dict[str, Path] = {}
    for above, files in _folders(folder):
        for stem, path in files:
            name = above + stem
            if name in found:
                raise refusal(
                    "DATA_PATH",
                    path,
                    f"the same stem as {found[name].name}",
                    "file names without suffix must be unique",
                    "remove one of them",
                )
            found[name] = path
    return found


def _folders(folder: Path, above: str = "") -> Iterator[tuple[str, list[tuple[str, Path]]]]:
    """Its path from the top with / behind it, and (stem, path) of its images and DICOM series, of a folder and those below it."""
    (there, folders), known, deeper = files_and_folders(folder), readable(), []
    files = [(pairs.stem(file), file) for file in there if has_suffix(file, known)]
    for entry in folders:
        (files.append((entry.name, entry)) if holds_dicom(entry) else deeper.append(entry))
    files.sort(key=lambda found: found[1].name)
    yield above, files
    for entry in deeper:
        yield from _folders(entry, f"{above}{entry.name}/")


def _endings(found: Mapping[str, Path], truth: Collection[str]) -> tuple[str, ...]:
    """Return what channels' names add to their case's, sorted: ("_flair", "_t1"); () unless all cases have the same.

    Cases are what masks are named after: anna, anna_mask or liver/anna. Numbers alone may count cases, and are no endings.
    """
    cases = {match[1] if (match := _PART.fullmatch(name)) else name for name in truth}
    if not any(name in cases for name in found):
        cases |= {name.partition("/")[2] for name in truth}
    endings: dict[str, set[str]] = {}
    for name in found:
        cut = next((end for end in range(len(name) - 1, 0, -1) if name[end] in "_-." and name[:end] in cases), None)
        if name in cases or cut is None or not any(map(str.isalpha, name[cut:])):
            return ()
        endings.setdefault(name[:cut], set()).add(name[cut:])
    kinds = set(map(frozenset, endings.values()))
    return tuple(sorted(kinds.pop())) if len(kinds) == 1 and len(next(iter(kinds))) > 1 else ()


def _by_suffix(found: Mapping[str, Path], suffixes: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """{case: a file for each suffix}."""
    words = not isinstance(suffixes, str) and all(isinstance(s, str) and s for s in suffixes)
    if not words or not suffixes or len(set(suffixes)) < len(suffixes):
        raise ConfigError(f"got data.suffixes={suffixes!r}; must be distinct endings of names, such as ('_t1', '_flair')")
    cases: dict[str, dict[str, Path]] = {}
    for name, path in found.items():
        ending = next((s for s in sorted(suffixes, key=len, reverse=True) if name.endswith(s) and name != s), None)
        if ending is None:
            raise refusal(
                "DATA_PATH",
                path,
                "another ending",
                f"names of images end in {', '.join(suffixes)}",
                "rename it, or correct data.suffixes",
            )
        cases.setdefault(name[: -len(ending)], {})[ending] = path
    for name, files in cases.items():
        absent = [s for s in suffixes if s not in files]
        if absent:
            first = next(iter(files.values()))
            raise refusal(
                "DATA_MISSING",
                first.parent / Path(name).name,
                f"no file with {absent[0]}, only with {', '.join(files)}",
                f"every case has {len(suffixes)} channels",
                "add the file or remove the case",
            )
    return {name: tuple(files[s] for s in suffixes) for name, files in cases.items()}


def _by_structure(cases: Mapping[str, object], truth: Mapping[str, Path]) -> dict[str, dict[str, tuple[Path, ...]]] | None:
    """{case: {structure: its masks}}; None where masks have the cases' names, or names of no case."""
    if truth.keys() <= cases.keys() or not truth:
        return None
    by_structure: dict[str, dict[str, tuple[Path, ...]]] = {}
    for name, path in sorted(truth.items()):
        folder, _, rest = name.partition("/")
        if rest in cases:
            case, structure = rest, folder
        else:
            ends = (end for end in range(len(name) - 1, 0, -1) if name[end] in "_-.")
            case = next((name[:end] for end in ends if name[:end] in cases), None)
            if case is None:
                return None  # `pairs.pair` says what is alone
            structure = name[len(case) + 1 :]
            if _PART.fullmatch(name) and _PART.fullmatch(name)[1] == case:  # anna_mask_1.png: a part of anna_mask.png
                structure = structure.rstrip("-_0123456789")
        parts = by_structure.setdefault(case, {})
        parts[structure] = (*parts.get(structure, ()), path)
    return by_structure
