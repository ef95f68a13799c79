"""Images and masks that belong together by name; shared by the layouts of single pictures."""

import functools
from collections.abc import Mapping
from pathlib import Path

from jaxseg.data.formats.discover import files_and_folders, has_suffix, visible_entries
from jaxseg.data.formats.own import readable
from jaxseg.data.formats.refusal import refusal


def by_stem(folder: Path, suffixes: tuple[str, ...] | None = None, *, ending: str = "") -> dict[str, Path]:
    """{file name without suffix and `ending`: file} of the visible files with one of the suffixes, sorted by name.

    Args:
      suffixes: None: those of all files that are read.
      ending: cut off where a stem ends in it ("_mask").
    Raises:
      DataError: DATA_MISSING for a missing folder, DATA_PATH for two files with the same stem.
    """
    if not folder.is_dir():
        raise refusal("DATA_MISSING", folder, "not there", "a folder of the data set's layout", "check data.root")
    suffixes = suffixes or readable()
    found: dict[str, Path] = {}
    for entry in files_and_folders(folder)[0]:
        if not has_suffix(entry, suffixes):
            continue
        name = stem(entry, suffixes).removesuffix(ending)
        if name in found:
            raise refusal(
                "DATA_PATH",
                entry,
                f"the same stem as {found[name].name}",
                "file names without suffix must be unique",
                "remove one of them",
            )
        found[name] = entry
    return found


def stem(path: Path, suffixes: tuple[str, ...] | None = None) -> str:
    """The file's name without the suffix of its format, the longest that fits: .nii.gz, not .gz."""
    name = path.name
    lower = name.lower()
    for suffix in _longest_first(suffixes or readable()):
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


@functools.lru_cache(64)
def _longest_first(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(suffixes, key=len, reverse=True))


def pair(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    *,
    without_mask: bool = False,
    remedy: str = "add the mask or remove the file",
    image_remedy: str = "add the image or remove the file",
) -> list[tuple[str, Path, Path]]:
    """(stem, image, mask) by equal stems, sorted by stem; never by the order of a listing.

    Args:
      without_mask: leave out images that have no mask instead of refusing them.
      remedy: what the message advises where an image has no mask.
      image_remedy: what it advises where a mask has no image.
    Raises:
      DataError: DATA_MISSING for an image or a mask without the other, or if there are no files.
    """
    for here, there, what in ((masks, images, "image"), *(() if without_mask else ((images, masks, "mask"),))):
        alone = sorted(here.keys() - there.keys())
        if alone:
            raise refusal(
                "DATA_MISSING",
                here[alone[0]],
                f"no {what} of the same name, so for {len(alone)} files "
                f"({', '.join(alone[:5])}{', ...' if len(alone) > 5 else ''})",
                "images and masks are paired by name",
                remedy if what == "mask" else image_remedy,
            )
    both = sorted(images.keys() & masks.keys())
    if not both:
        first = next(iter((*images.values(), *masks.values())), None)
        raise refusal(
            "DATA_MISSING", first or "the folders", "no pair of image and mask", "at least one is needed", "check data.root"
        )
    return [(stem, images[stem], masks[stem]) for stem in both]


def holder(root: Path, folders: tuple[str, ...], layout: str) -> Path:
    """The folder that holds all of `folders`: `root`, or the only such folder in it.

    Raises:
      DataError: DATA_MISSING for none, or several.
    """
    holds = lambda d: all((d / f).is_dir() for f in folders)
    if holds(root):
        return root
    found = [d for d in (visible_entries(root) if root.is_dir() else ()) if d.is_dir() and holds(d)]
    if len(found) != 1:
        what = f"{len(found)} folders with {' and '.join(folders)}" if root.is_dir() else "no such folder"
        raise refusal("DATA_MISSING", root, what, f"{layout} holds {' and '.join(folders)}", "give the folder that was unpacked")
    return found[0]
