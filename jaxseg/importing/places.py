"""Find a model: in its own folder, in a folder with several models (nnUNet_results/Dataset001_Name), or in a zip archive."""

import contextlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from jaxseg.types import ConfigError, DataError
from jaxseg.utils import guard

PLANS = "plans.json"
CHECKPOINT = re.compile(r"checkpoint_\w+\.pth")
_USED = re.compile(
    rf"plans\.json|dataset\.json|splits_final\.json|fold_[^/]+/{CHECKPOINT.pattern}|(crossval_[^/]+/)?postprocessing\.(pkl|json)"
)
MAX_BYTES = 64 << 30  # of an unpacked model


@contextlib.contextmanager
def model_folder(path: Path, configuration: str = "") -> Iterator[Path]:
    """Give the folder of one model (Trainer__Plans__Configuration); an archive is unpacked for as long as the block runs.

    Args:
      path: the model's folder, a folder that contains it at most two levels below, or a zip archive.
      configuration: name of the configuration, if there are several ("3d_fullres").
    Raises:
      ConfigError: no model is found, or more than one.
      DataError: the archive cannot be read.
    """
    guard.check_regular(path, folder_too=True)
    with contextlib.ExitStack() as stack:
        if path.is_file():
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(path, place)
        else:
            place = path
        yield _chosen(path, place, configuration)


def _chosen(path: Path, place: Path, configuration: str) -> Path:
    every = sorted({p.parent for depth in ("", "*/", "*/*/") for p in place.glob(f"{depth}{PLANS}")})
    found = [p for p in every if any(p.glob("fold_*"))] or every  # nnU-Net leaves plans.json beside predictions, too
    models = [p for p in found if not configuration or p.resolve().name.rpartition("__")[2] == configuration]
    if len(models) == 1:
        return models[0]
    there = ", ".join(str(p.relative_to(place)) for p in found)
    if not found:
        raise ConfigError(
            f"{path}: no {PLANS} found; give the folder that nnU-Net's training wrote, Trainer__Plans__Configuration"
        )
    if not models:
        raise ConfigError(f"--configuration={configuration}: {path} has only {there}; give the configuration of one of them")
    raise ConfigError(f"{path} holds {len(found)} models: {there}; give one of these folders, or --configuration")


def _unpack(path: Path, place: Path) -> None:
    """Unpack the files of an archive that an import needs to `place`, and no others."""
    with guard.reading(path, "archive"):
        try:
            with guard.open_regular(path) as file, zipfile.ZipFile(file) as archive:
                used = [info for info in archive.infolist() if _is_used(info)]
                if sum(info.file_size for info in used) > MAX_BYTES:
                    raise DataError(
                        f"claims to unpack to more than {MAX_BYTES >> 30} GiB; unpack it by hand and give the folder",
                        "DATA_ARCHIVE",
                    )
                for info in used:
                    target = place.joinpath(*PurePosixPath(info.filename).parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as member, open(target, "xb") as copy:  # zipfile reads no more than the stated size
                        shutil.copyfileobj(member, copy, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError, FileExistsError, NotImplementedError) as error:
            raise DataError(
                f"is not a complete zip archive ({type(error).__name__}); export the model again", "DATA_ARCHIVE"
            ) from error


def _is_used(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename).parts
    inside = not info.is_dir() and ".." not in parts and not info.filename.startswith("/") and "\\" not in info.filename
    return inside and any(_USED.fullmatch("/".join(parts[at:])) for at in range(min(3, len(parts))))
