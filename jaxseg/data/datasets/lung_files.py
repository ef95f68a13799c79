"""Files of the chest X-ray data sets that `volumes` does not read, masks of another resolution, and a generated data set."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data.formats import volumes
from jaxseg.data.formats.discover import has_suffix, visible_entries
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import masks
from jaxseg.data.records import Photo, Volume
from jaxseg.types import DataError
from jaxseg.utils import guard
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 2  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

SIDE = 2048  # pixels of a JSRT picture, each way
KINDS = {"default": 80, "quick": 20}  # pictures
PHANTOM_VERSION = 1


def read_image(path: Path) -> Volume:
    """A picture: .IMG of JSRT, .gif of SCR, or whatever `volumes.read_volume` reads.

    Raises:
      DataError: as that function; DATA_TRUNCATED and DATA_IMAGE as `read_jsrt` and `read_gif`.
    """
    if has_suffix(path, (".img",)):
        return read_jsrt(path)
    return read_gif(path) if has_suffix(path, (".gif",)) else volumes.read_volume(path)


def read_mask(path: Path) -> Volume:
    """A mask of one structure as 0 and 1: .gif of SCR, or whatever `masks.read` reads.

    Raises:
      DataError: as `masks.read` and `read_gif`.
    """
    return masks.read(path, 1, open_file=read_gif if has_suffix(path, (".gif",)) else None)


def read_jsrt(path: Path, side: int = SIDE) -> Volume:
    """Raw big-endian 16-bit words that hold 12 bits -> uint8 [side, side]: (4095 - v) / 16, truncated.

    The files store high values where the picture is dark; inverted, lungs are dark as in the other data sets.

    Raises:
      DataError: DATA_TRUNCATED for another length, DATA_IMAGE for values above 12 bits.
    """
    with guard.open_regular(path) as file, guard.reading(path, "image"):
        data = file.read(2 * side * side + 1)
    if len(data) != 2 * side * side:
        raise refusal(
            "DATA_TRUNCATED",
            path,
            f"{path.stat().st_size} bytes",
            f"{side} x {side} words of 16 bits are {2 * side * side}",
            "copy the file again",
        )
    words = np.frombuffer(data, ">u2").reshape(side, side)
    if words.max() > 4095:
        raise refusal(
            "DATA_IMAGE",
            path,
            f"a value of {words.max()}",
            "12 bits, big-endian: at most 4095",
            "check the byte order of the file",
        )
    return Volume(((4095 - words) >> 4).astype(np.uint8), np.eye(4), Photo("IMG"), path)


def read_gif(path: Path) -> Volume:
    """A mask of one frame: 0 and 255, from black and anything else.

    Raises:
      DataError: DATA_IMAGE for what cannot be decoded, DATA_LABEL for colours.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            guard.open_regular(path) as file,
            Image.open(file, formats=["GIF"]) as image,
        ):
            if image.size[0] * image.size[1] > 2**26 or getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{image.size} pixels, {image.n_frames} frames")
            rgb = np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, IndexError ...
        raise refusal(
            "DATA_IMAGE",
            path,
            f"cannot be decoded ({type(error).__name__}: {str(error)[:80].replace(str(path), '')})",
            "must be a whole GIF of one frame",
            "unpack the masks again",
        ) from error
    values = np.unique(rgb.reshape(-1, 3), axis=0)
    if len(values) > 2:
        raise refusal("DATA_LABEL", path, f"{len(values)} colours", "a mask has black and one colour", "is this a mask?")
    return Volume(np.where(rgb.any(-1), 255, 0).astype(np.uint8), np.eye(4), Photo("GIF"), path)


def scr_folds(root: Path) -> list[Path]:
    """Return SCR's folders fold1 and fold2, in `root` or one folder down.

    Raises:
      DataError: DATA_MISSING.
    """
    for folder in (root, *(d for d in visible_entries(root) if d.is_dir())):
        folds = [folder / f for f in ("fold1", "fold2") if (folder / f / "masks").is_dir()]
        if folds:
            return folds
    raise refusal(
        "DATA_MISSING",
        root / "fold1",
        "not there",
        "SCR's masks lie in fold1/masks and fold2/masks",
        "unpack SCR beside All247images",
    )


def upsample(mask: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """Enlarge a mask by a whole factor to the size of its picture, repeating pixels: SCR's 1024 to JSRT's 2048.

    Raises:
      DataError: DATA_MISMATCH for another ratio.
    """
    factors = [n // m for n, m in zip(size, mask.shape)]
    if factors[0] != factors[1] or factors[0] < 1 or tuple(factors[0] * m for m in mask.shape) != tuple(size):
        raise refusal(
            "DATA_MISMATCH",
            path,
            f"shape {mask.shape}, but the picture has {tuple(size)}",
            "one shape, or a whole multiple of it",
            "check that they belong together",
        )
    return mask.repeat(factors[0], 0).repeat(factors[0], 1) if factors[0] > 1 else mask


def phantom(kind: str = "default") -> Path:
    """Return the folder of generated pictures in Shenzhen's layout."""
    count = lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-lungs-{PHANTOM_VERSION}-{kind}", lambda folder: _write(folder, count))


def _write(root: Path, count: int, side: int = 96) -> None:
    """Draw two dark lungs in a grey chest, a bright spine, and a heart on the image's right; always the same bytes."""
    (root / "SYNTHETIC.txt").write_text("Generated from formulas by jaxseg.data.datasets.lung_files; shows no patient.\n")
    for part in ("CXR_png", "mask"):
        (root / part).mkdir()
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] / side
    for i in range(count):
        cy, half, tall, apart = rng.uniform((0.45, 0.13, 0.28, 0.2), (0.55, 0.17, 0.36, 0.23))
        rows = ((y - cy) / tall) ** 2 * (1 + 0.4 * (y < cy))
        heart = ((x - 0.56) / 0.13) ** 2 + ((y - cy - 0.15) / 0.14) ** 2 < 1
        right = ((x - 0.5 + apart) / half) ** 2 + rows < 1
        left = (((x - 0.5 - apart) / (0.92 * half)) ** 2 + rows < 1) & ~heart
        ribs = 0.06 * np.sin(50 * (y + 0.4 * (x - 0.5) ** 2))
        light = 0.55 + 0.25 * np.exp(-(((x - 0.5) / 0.05) ** 2)) + 0.2 * heart + ribs
        light = np.where(right | left, 0.2 + ribs, light) * (np.abs(x - 0.5) < 0.47) + rng.normal(0, 0.03, (side, side))
        stem = f"CHNCXR_{i + 1:04d}_{i % 2}"
        Image.fromarray((255 * np.clip(light, 0, 1)).astype(np.uint8)).save(root / "CXR_png" / f"{stem}.png")
        Image.fromarray(np.where(right | left, 255, 0).astype(np.uint8)).save(root / "mask" / f"{stem}_mask.png")
