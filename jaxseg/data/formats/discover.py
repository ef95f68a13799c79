"""Find the input files under a path, without opening anything but regular files of the given folder."""

import contextlib
import contextvars
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxseg.data.formats import nifti, own
from jaxseg.data.formats.refusal import refusal
from jaxseg.utils import guard

_log = logging.getLogger(__name__)
_top: contextvars.ContextVar[Path | None] = contextvars.ContextVar("top", default=None)
_once: contextvars.ContextVar[dict | None] = contextvars.ContextVar("once", default=None)


def has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether the file's name ends in one of the suffixes, in upper or lower case."""
    return os.fspath(path).lower().endswith(suffixes)  # many times faster than Path(path).name


@contextlib.contextmanager
def links_inside(top: str | Path) -> Iterator[None]:
    """Within this context, `visible_entries` follows links from anywhere to anywhere in `top`, the data set's folder."""
    token = _top.set(Path(top))
    try:
        yield
    finally:
        _top.reset(token)


@contextlib.contextmanager
def listed_once() -> Iterator[None]:
    """Within this context each folder is listed once: when its layout is recognised, and again when its files are wanted."""
    token = _once.set({})
    try:
        yield
    finally:
        _once.reset(token)


def visible_entries(folder: str | Path) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, without hidden ones; links and errors as `files_and_folders`."""
    return [entry for entry, _ in _listed(Path(folder))]


def files_and_folders(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder, and the folders in it, each sorted by name, without hidden ones (such as macOS's ._ files).

    No file is looked at, unless it is a link: there may be hundreds of thousands.

    Links are followed if they stay inside the folder, or inside the data set that it is part of (`links_inside`), or if they lead
    to the annex of the Git repository that holds it (where git-annex and DataLad keep every file).

    Raises:
      DataError: an entry is a pipe or device, or a link that is broken or leads elsewhere (DATA_PATH).
    """
    listed = _listed(Path(folder))
    return [entry for entry, is_file in listed if is_file], [entry for entry, is_file in listed if not is_file]


def _listed(folder: Path) -> list[tuple[Path, bool]]:
    """Return the entries that `files_and_folders` returns, each with whether it is a file."""
    known, key = _once.get(), (folder, _top.get())
    if known is None:
        return _listed_now(folder)
    if key not in known:
        known[key] = _listed_now(folder)
    return known[key]


def _listed_now(folder: Path) -> list[tuple[Path, bool]]:
    try:
        root = folder.resolve(strict=True)
        top = _top.get() and _top.get().resolve(strict=True)
        with os.scandir(folder) as found:  # which knows kinds without looking at each file
            kinds = {e.name: _kind(e) for e in found if not e.name.startswith(".")}
        entries = {name: folder / name for name in sorted(kinds)}
    except (OSError, RuntimeError) as error:
        raise refusal(
            "DATA_PATH",
            folder,
            f"cannot be listed ({getattr(error, 'strerror', None) or error})",
            "must be a readable folder",
            "check path and permissions",
        ) from None
    unknown = [entry for name, entry in entries.items() if kinds[name] is None]
    links = [entry for entry in unknown if entry.is_symlink()]
    if links:
        inside = [root, *([top] if top and root.is_relative_to(top) else ())]
        inside += [
            repository / ".git" / "annex" for repository in (root, *root.parents) if (repository / ".git" / "annex").is_dir()
        ]
    for entry in links:
        _check_link(entry, inside)
    for entry in unknown:
        kinds[entry.name] = not guard.check_regular(entry, folder_too=True)
    return [(entry, bool(kinds[name])) for name, entry in entries.items()]


def _kind(entry: os.DirEntry) -> bool | None:
    """Return whether an entry is a regular file (True) or a folder (False); None for links and what else there is."""
    if entry.is_file(follow_symlinks=False):
        return True
    return False if entry.is_dir(follow_symlinks=False) else None


def _check_link(entry: Path, inside: Collection[Path]) -> None:
    try:
        target = entry.resolve(strict=True)
    except (OSError, RuntimeError):
        absent = ".git/annex/objects" in str(entry.readlink())
        raise refusal(
            "DATA_PATH",
            entry,
            "is a broken link",
            "links must lead to files that exist",
            "fetch the file: git annex get" if absent else "copy the file there, or remove the link",
        ) from None
    if not any(target.is_relative_to(folder) for folder in inside):
        raise refusal(
            "DATA_PATH",
            entry,
            "is a link that leads out of the folder",
            "links must stay inside the given folder",
            "copy the file there, or give the folder that holds both",
        )


def is_dicom(path: Path) -> bool:
    """Return whether a regular file is DICOM: with DICM after its 128-byte preamble, or without the preamble."""
    with guard.reading(path, "file"), guard.open_regular(path) as file:
        start = file.read(132)
    return start[128:] == b"DICM" or lacks_preamble(start)


def lacks_preamble(start: bytes) -> bool:
    """Return whether a file starts with what usually follows the preamble: DICM, or the first element of a DICOM object.

    That element is the length of group 2, or the first element of an image: the length of group 8, the character set, the image
    type or the SOP class.
    """
    if start[:4] == b"DICM":
        return len(start) > 4
    tag, kind = start[:4], start[4:6]
    if tag == b"\2\0\0\0":
        return start[4:8] == b"UL\4\0"
    known = {b"\x08\0\0\0": b"UL", b"\x08\0\x05\0": b"CS", b"\x08\0\x08\0": b"CS", b"\x08\0\x16\0": b"UI"}
    return tag in known and (kind == known[tag] or 0 < int.from_bytes(start[4:8], "little") <= 256)


def holds_dicom(folder: Path) -> bool:
    """Return whether a folder directly contains a DICOM file."""
    return any(map(is_dicom, files_and_folders(folder)[0]))


def find_inputs(path: str | Path) -> list[Path]:
    """Return the inputs for prediction under a path, sorted by name.

    A file is one input. A folder with DICOM files is one input (its other files are ignored, but NIfTI files beside DICOM are
    refused as ambiguous). In any other folder the inputs are its NIfTI files, its pictures, and its sub-folders with DICOM files.

    Raises:
      DataError: nothing is found (DATA_MISSING), or there are special files or links that leave the folder (DATA_PATH).
    """
    path = Path(path)
    guard.check_regular(path, folder_too=True)
    if path.is_file():
        if not has_suffix(path, own.readable()) and not is_dicom(path):
            raise refusal(
                "DATA_MISSING",
                path,
                "no image file",
                f"looked for {', '.join(own.readable())} and DICOM",
                "give an image file or a folder of them",
            )
        return [path]
    files, folders = files_and_folders(path)
    known = own.readable()
    images = [f for f in files if has_suffix(f, known)]
    if any(is_dicom(f) for f in files if not has_suffix(f, known)):
        volumes = [f.name for f in images if has_suffix(f, nifti.SUFFIXES)]
        if volumes:
            raise refusal(
                "DATA_PATH",
                path,
                f"DICOM files beside {len(volumes)} NIfTI files ({volumes[0]})",
                "a folder must hold either one DICOM series or images",
                "separate them",
            )
        return [path]
    with links_inside(path):
        series = [f for f in folders if holds_dicom(f)]
    if len(series) < len(folders):
        _log.info("%s: %d sub-folders without DICOM files are ignored", path, len(folders) - len(series))
    if not images and not series:
        raise refusal(
            "DATA_MISSING",
            path,
            f"no input among {len(files) + len(folders)} entries",
            f"looked for {', '.join(own.readable())}, DICOM files and folders of DICOM files",
            "give the folder that holds the images",
        )
    return sorted(images + series)
