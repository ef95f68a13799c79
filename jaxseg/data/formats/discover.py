"""Which files of a path are inputs, found without opening anything that is no regular file of the given folder."""

import logging
from pathlib import Path

from jaxseg.data.formats import nifti, photos
from jaxseg.data.formats.refusal import refusal
from jaxseg.utils import guard

_log = logging.getLogger(__name__)
SUFFIXES = (*nifti.SUFFIXES, *photos.SUFFIXES)


def has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file's name ends in one of the suffixes, in any case."""
    return Path(path).name.lower().endswith(suffixes)


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
        raise refusal(
            "DATA_PATH",
            folder,
            f"cannot be listed ({getattr(error, 'strerror', None) or error})",
            "must be a readable folder",
            "check path and permissions",
        ) from None
    for entry in entries:
        if entry.is_symlink():
            try:
                inside = entry.resolve(strict=True).is_relative_to(root)
            except (OSError, RuntimeError):
                inside = False
            if not inside:
                raise refusal(
                    "DATA_PATH",
                    entry,
                    "a link that is broken or leads out of the folder",
                    "links stay inside the given folder",
                    "copy the file there, or give its own folder",
                )
        guard.check_regular(entry, folder_too=True)
    return entries


def is_dicom(path: Path) -> bool:
    """Whether a regular file carries DICOM's mark after its 128-byte preamble."""
    with guard.reading(path, "file"), guard.open_regular(path) as file:
        return file.read(132)[128:] == b"DICM"


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
    guard.check_regular(path, folder_too=True)
    if path.is_file():
        if not has_suffix(path, SUFFIXES) and not is_dicom(path):
            raise refusal(
                "DATA_MISSING",
                path,
                "no image file",
                f"looked for {', '.join(SUFFIXES)} and DICOM",
                "give an image file or a folder of them",
            )
        return [path]
    entries = visible_entries(path)
    files = [e for e in entries if e.is_file()]
    images = [f for f in files if has_suffix(f, SUFFIXES)]
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
    series = [f for f in folders if holds_dicom(f)]
    if len(series) < len(folders):
        _log.info("%s: %d sub-folders without DICOM files are not searched", path, len(folders) - len(series))
    if not images and not series:
        raise refusal(
            "DATA_MISSING",
            path,
            f"no input among {len(entries)} entries",
            f"looked for {', '.join(SUFFIXES)}, DICOM files and folders of DICOM files",
            "give the folder that holds the images",
        )
    return sorted(images + series)
