"""Report the files in a data set's folders that no reader supports, by suffix, so that none is ignored silently."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxseg.data.formats.discover import has_suffix
from jaxseg.data.formats.own import readable
from jaxseg.data.records import DataSet

TEXT = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".md",
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".pdf",
    ".xlsx",
    ".log",
    ".bval",
    ".bvec",
    ".py",
)
HEADERS = (".mhd",)  # their voxels lie in a file beside them, of the same name
DOUBLE = (".nii.gz", ".seg.nrrd", ".nii.zst", ".nii.bz2", ".tar.gz")
MOST = 200_000  # entries that are looked at below a folder that could not be read


def notes(dataset: DataSet) -> tuple[str, ...]:
    """Return a line about unsupported files beside those of the cases; () if there are none."""
    line = beside((p for c in dataset.cases for p in (*c.images, *([c.mask] if c.mask else []), *c.parts)), dataset.root)
    return (line,) if line else ()


def beside(used: Iterable[Path], root: Path) -> str:
    """Return the same line about the files in the folders of those in use."""
    taken = set(map(os.fspath, used))  # as text: there may be hundreds of thousands
    known = (*readable(), *TEXT)
    folders = sorted(set(map(os.path.dirname, taken)))
    there = (os.path.join(folder, name) for folder in folders for name in _names(Path(folder)) if not has_suffix(name, known))
    return describe((Path(path) for path in there if path not in taken), root)


def below(root: Path) -> str:
    """Return the same line about all files below a folder that holds no case; "" if there are none."""
    walked = (Path(folder) / name for folder, _, names in os.walk(root) if "/." not in folder for name in names)
    return describe((path for _, path in zip(range(MOST), walked) if not path.name.startswith(".")), root)


def describe(paths: Iterable[Path], root: Path) -> str:
    """ "not read: 10 .nrrd (images/a.nrrd, ...)" of those of the files that no reader knows; "" for none."""
    count, first, known = Counter(), {}, (*readable(), *TEXT)
    for path in paths:
        if has_suffix(path, known) or not path.is_file() or any(path.with_suffix(s).is_file() for s in HEADERS):
            continue
        suffix = next((s for s in DOUBLE if has_suffix(path, (s,))), path.suffix.lower()) or "without a suffix"
        count[suffix] += 1
        first.setdefault(suffix, path.relative_to(root) if path.is_relative_to(root) else path)
    if not count:
        return ""
    words = ", ".join(f"{n} {suffix} ({first[suffix]}{', ...' if n > 1 else ''})" for suffix, n in count.most_common(6))
    more = f" and {len(count) - 6} more suffixes" if len(count) > 6 else ""
    return f"not read: {words}{more}; {' '.join(readable())} are: convert the files, or move them away"


def _names(folder: Path) -> Iterator[str]:
    """Return the visible entries of a folder, sorted; none if it cannot be listed."""
    try:
        yield from sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return
