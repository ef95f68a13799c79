"""Which files of a path are inputs, found without opening anything that is no regular file of the given folder."""

import logging
import os
import stat
from pathlib import Path

from jaxseg.data.formats import nifti, photos
from jaxseg.data.formats.refusal import refusal

_log = logging.getLogger(__name__)
SUFFIXES = (*nifti.SUFFIXES, *photos.SUFFIXES)


def has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file's name ends in one of the suffixes, in any case."""
    return Path(path).name.lower().endswith(suffixes)


def check_regular(path: str | Path, *, folder_too: bool = False) -> None:
    """Refuse, without opening it, what is no regular file (or folder, if allowed). Links are followed.

    Raises:
      DataError: DATA_MISSING when nothing is there, DATA_PATH for pipes, devices and sockets.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise refusal("DATA_MISSING", path, f"cannot be found ({getattr(error, 'strerror', None) or error})",
                      "must be a file or folder", "check the path") from None
    if not (stat.S_ISREG(mode) or folder_too and stat.S_ISDIR(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise refusal("DATA_PATH", path, kind, "must be a regular file" + (" or a folder" if folder_too else ""),
                      "give the file itself")


def visible_entries(folder: str | Path) -> list[Path]:
    """The files and folders in a folder, sorted by name, without hidden ones (the ._ files of macOS among them).

    Raises:
      DataError: DATA_PATH for an entry that is a pipe or device, or a link that is broken or leaves the folder.
    """
    folder = Path(folder)
    try:
        root = folder.resolve(strict=True)
        entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
    except (OSError, RuntimeError) as error:
        raise refusal("DATA_PATH", folder, f"cannot be listed ({getattr(error, 'strerror', None) or error})",
                      "must be a readable folder", "check path and permissions") from None
    for entry in entries:
        if entry.is_symlink():
            try:
                inside = entry.resolve(strict=True).is_relative_to(root)
            except (OSError, RuntimeError):
                inside = False
            if not inside:
                raise refusal("DATA_PATH", entry, "a link that is broken or leads out of the folder",
                              "links stay inside the given folder", "copy the file there, or give its own folder")
        check_regular(entry, folder_too=True)
    return entries


def is_dicom(path: Path) -> bool:
    """Whether a regular file carries DICOM's mark after its 128-byte preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise refusal("DATA_PATH", path, f"cannot be read ({error.strerror or error})", "must be a readable file",
                      "check permissions and disk") from error


def holds_dicom(folder: Path) -> bool:
    """Whether one of a folder's own files is DICOM."""
    return any(is_dicom(e) for e in visible_entries(folder) if e.is_file())


def find_inputs(path: str | Path) -> list[Path]:
    """What predict reads under a path, sorted by name.

    A file is itself. A folder with DICOM files is one input (its other files are no inputs; NIfTI beside DICOM is
    refused as ambiguous). Any other folder gives its NIfTI, PNG, JPEG and TIFF files and those of its sub-folders
    that are DICOM folders.

    Raises:
      DataError: DATA_MISSING when nothing is found, DATA_PATH for special files and links that leave the folder.
    """
    path = Path(path)
    check_regular(path, folder_too=True)
    if path.is_file():
        if not has_suffix(path, SUFFIXES) and not is_dicom(path):
            raise refusal("DATA_MISSING", path, "no image file", f"looked for {', '.join(SUFFIXES)} and DICOM",
                          "give an image file or a folder of them")
        return [path]
    entries = visible_entries(path)
    files = [e for e in entries if e.is_file()]
    images = [f for f in files if has_suffix(f, SUFFIXES)]
    if any(is_dicom(f) for f in files if f not in images):
        volumes = [f.name for f in images if has_suffix(f, nifti.SUFFIXES)]
        if volumes:
            raise refusal("DATA_PATH", path, f"DICOM files beside {len(volumes)} NIfTI files ({volumes[0]})",
                          "a folder holds one DICOM series or images", "separate them")
        return [path]
    folders = [e for e in entries if e.is_dir()]
    series = [f for f in folders if holds_dicom(f)]
    if len(series) < len(folders):
        _log.info("%s: %d sub-folders without DICOM files are not searched", path, len(folders) - len(series))
    if not images and not series:
        raise refusal("DATA_MISSING", path, f"no input among {len(entries)} entries",
                      f"looked for {', '.join(SUFFIXES)}, DICOM files and folders of DICOM files",
                      "give the folder that holds the images")
    return sorted(images + series)
