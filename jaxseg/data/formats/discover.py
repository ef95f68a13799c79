"""Which files of a path are inputs, found without opening anything that is no regular file of the given folder."""

import contextlib
import contextvars
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxseg.data.formats import nifti, own
from jaxseg.data.formats.refusal import refusal
from jaxseg.utils import guard

_log = logging.getLogger(__name__)
_top: contextvars.ContextVar[Path | None] = contextvars.ContextVar("top", default=None)


def has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file's name ends in one of the suffixes, in any case."""
    return Path(path).name.lower().endswith(suffixes)


@contextlib.contextmanager
def links_inside(top: str | Path) -> Iterator[None]:
    """Inside, `visible_entries` follows links of the folders in `top`, a data set's own folder, wherever they lead in it."""
    token = _top.set(Path(top))
    try:
        yield
    finally:
        _top.reset(token)


def visible_entries(folder: str | Path) -> list[Path]:
    """The files and folders in a folder, sorted by name, without hidden ones (the ._ files of macOS among them).

    Links are followed where they stay inside the folder or the data set that it is part of (`links_inside`), or lead to the annex
    of the Git repository that holds it (git-annex and DataLad keep every file there).

    Raises:
      DataError: DATA_PATH for an entry that is a pipe or device, or a link that is broken or leads elsewhere.
    """
    folder = Path(folder)
    try:
        root = folder.resolve(strict=True)
        top = _top.get() and _top.get().resolve(strict=True)
        entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
    except (OSError, RuntimeError) as error:
        raise refusal(
            "DATA_PATH",
            folder,
            f"cannot be listed ({getattr(error, 'strerror', None) or error})",
            "must be a readable folder",
            "check path and permissions",
        ) from None
    links = [entry for entry in entries if entry.is_symlink()]
    if links:
        inside = [root, *([top] if top and root.is_relative_to(top) else ())]
        inside += [
            repository / ".git" / "annex" for repository in (root, *root.parents) if (repository / ".git" / "annex").is_dir()
        ]
    for entry in links:
        _check_link(entry, inside)
    for entry in entries:
        guard.check_regular(entry, folder_too=True)
    return entries


def _check_link(entry: Path, inside: Collection[Path]) -> None:
    try:
        target = entry.resolve(strict=True)
    except (OSError, RuntimeError):
        absent = ".git/annex/objects" in str(entry.readlink())
        raise refusal(
            "DATA_PATH",
            entry,
            "a link that is broken",
            "links lead to files that are there",
            "fetch the file: git annex get" if absent else "copy the file there, or remove the link",
        ) from None
    if not any(target.is_relative_to(folder) for folder in inside):
        raise refusal(
            "DATA_PATH",
            entry,
            "a link that leads out of the folder",
            "links stay inside the given folder",
            "copy the file there, or give the folder that holds both",
        )


def is_dicom(path: Path) -> bool:
    """Whether a regular file carries DICOM's mark after its 128-byte preamble, or is a DICOM file without its preamble."""
    with guard.reading(path, "file"), guard.open_regular(path) as file:
        start = file.read(132)
    return start[128:] == b"DICM" or lacks_preamble(start)


def lacks_preamble(start: bytes) -> bool:
    """Whether the first bytes of a file are those that follow the preamble: DICM, or the first element of a DICOM object.

    That element is the length of group 2, or of what every image begins with: group 8's length, character set, image type, or SOP
    class.
    """
    if start[:4] == b"DICM":
        return len(start) > 4
    tag, kind = start[:4], start[4:6]
    if tag == b"\2\0\0\0":
        return start[4:8] == b"UL\4\0"
    known = {b"\x08\0\0\0": b"UL", b"\x08\0\x05\0": b"CS", b"\x08\0\x08\0": b"CS", b"\x08\0\x16\0": b"UI"}
    return tag in known and (kind == known[tag] or 0 < int.from_bytes(start[4:8], "little") <= 256)


def holds_dicom(folder: Path) -> bool:
    """Whether one of a folder's own files is DICOM."""
    return any(is_dicom(e) for e in visible_entries(folder) if e.is_file())


def find_inputs(path: str | Path) -> list[Path]:
    """What predict reads under a path, sorted by name.

    A file is itself. A folder with DICOM files is one input (its other files are no inputs; NIfTI beside DICOM is
    refused as ambiguous). Any other folder gives its NIfTI files and pictures and those of its sub-folders
    that are DICOM folders.

    Raises:
      DataError: DATA_MISSING when nothing is found, DATA_PATH for special files and links that leave the folder.
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
    entries = visible_entries(path)
    files = [e for e in entries if e.is_file()]
    images = [f for f in files if has_suffix(f, own.readable())]
    if any(is_dicom(f) for f in files if f not in images):
        volumes = [f.name for f in images if has_suffix(f, nifti.SUFFIXES)]
        if volumes:
            raise refusal(
                "DATA_PATH",
                path,
                f"DICOM files beside {len(volumes)} NIfTI files ({volumes[0]})",
                "a folder holds one DICOM series or images",
                "separate them",
            )
        return [path]
    folders = [e for e in entries if e.is_dir()]
    with links_inside(path):
        series = [f for f in folders if holds_dicom(f)]
    if len(series) < len(folders):
        _log.info("%s: %d sub-folders without DICOM files are not searched", path, len(folders) - len(series))
    if not images and not series:
        raise refusal(
            "DATA_MISSING",
            path,
            f"no input among {len(entries)} entries",
            f"looked for {', '.join(own.readable())}, DICOM files and folders of DICOM files",
            "give the folder that holds the images",
        )
    return sorted(images + series)
