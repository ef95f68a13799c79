"""Read and write PNG, JPEG, TIFF, BMP and GIF pictures: grey or RGB, 8 or 16 bits, one frame, upright."""

import io
import math
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.data.exif import stored_order, upright
from jaxseg.data.formats import inflate
from jaxseg.data.formats.nifti import as_stored
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Photo, Volume
from jaxseg.types import DataError
from jaxseg.utils import guard

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_FORMATS = ("PNG", "JPEG", "TIFF")  # under any of the suffixes
_BY_SUFFIX = {".bmp": ("BMP",), ".gif": ("GIF",)}
_ORIENTATION = 274  # EXIF's tag
MAX_PIXELS = 2**26
_DENSITY = {"PNG": 8 * inflate.MAX_RATIO, "JPEG": 1024, "BMP": 128, "GIF": 4096}
# pixels in a byte: of 1 bit, deflated; of blocks of 64 in a bit each; runs of 255 in two bytes; strings for a code of 9 bits
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # compressions of TIFF
_CONVERT = "convert it to 8-bit grey or RGB"


def read_photo(path: str | Path, *, max_pixels: int = MAX_PIXELS, palette_indices: bool = False) -> Volume:
    """Read a picture as [H, W] or [H, W, 3], uint8 or uint16 (grey only), rotated upright by its EXIF orientation.

    A fully opaque alpha channel is removed; 1-bit pictures become 0 and 255.

    Args:
      path: the file.
      max_pixels: larger pictures are refused before they are decoded.
      palette_indices: return the indices of a palette picture, with its colours in the header, instead of refusing it.
    Raises:
      DataError: the picture cannot be decoded, or not without silent loss (DATA_IMAGE); it has a palette (DATA_LABEL).
    """
    bad = lambda found, rule, remedy=_CONVERT: refusal("DATA_IMAGE", path, found, rule, remedy)
    try:
        with guard.open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow only warns about bombs and odd tags; the limits here are errors
            with Image.open(file, formats=(*_FORMATS, *_BY_SUFFIX.get(Path(path).suffix.lower(), ()))) as image:
                kind, (width, height) = image.format, image.size
                if width * height > max_pixels:
                    raise bad(
                        f"{width} x {height} = {width * height} pixels",
                        f"must be at most {max_pixels}",
                        "check the file, or cut it into tiles",
                    )
                size = os.fstat(file.fileno()).st_size
                if width * height > _DENSITY.get(kind, math.inf) * size:
                    raise bad(
                        f"{width} x {height} pixels in {size} bytes",
                        "a file of this size cannot hold so many",
                        "export the file again",
                    )
                if getattr(image, "n_frames", 1) > 1:
                    raise bad(f"{image.n_frames} frames", "must be a single picture", "save one frame")
                if kind == "GIF":
                    image = _coloured(image)
                if image.mode == "P" and not palette_indices:
                    raise refusal(
                        "DATA_LABEL", path, "a palette picture", "an image must be grey or RGB", "convert it to grey or RGB"
                    )
                _check_depth(image, path, bad)
                lossy = kind == "JPEG" or image.info.get("compression") in _LOSSY
                turn = _turn_of(image)
                values = _values(image, bad)
                palette = _palette(image) if image.mode == "P" else ()
                left = _turn_of(image) if kind == "TIFF" else turn  # newer versions of Pillow turn TIFF while they decode it
                array = np.ascontiguousarray(upright(values, left))
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise bad("not a readable picture", "must be a PNG, JPEG, TIFF, BMP or GIF file", "check the file") from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error, IndexError ...
        raise bad(
            f"cannot be decoded ({type(error).__name__}: {str(error)[:80].replace(str(path), '')})",
            "must be a whole PNG, JPEG, TIFF, BMP or GIF file",
            "copy or export the file again",
        ) from error
    return Volume(array, np.eye(4), Photo(kind, palette, lossy, turn), Path(path))


def _palette(image: Image.Image) -> tuple[tuple[int, int, int, int], ...]:
    """(red, green, blue, alpha) of each index."""
    rgb, clear = image.getpalette("RGB") or [], image.info.get("transparency", b"")
    alpha = dict(enumerate(clear)) if isinstance(clear, bytes) else {clear: 0}
    return tuple((*rgb[3 * i : 3 * i + 3], alpha.get(i, 255)) for i in range(len(rgb) // 3))


def _coloured(image: Image.Image) -> Image.Image:
    """Convert a GIF to the colours that it shows, because palette indices have no fixed meaning in GIF files."""
    if image.mode != "P":
        return image
    if "transparency" in image.info:
        return image.convert("RGBA")
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return image.convert("L" if (colours == colours[:, :1]).all() else "RGB")


def _turn_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a file, 0 for none. In TIFF files 1 counts as none, because every TIFF writer adds it."""
    stated = image.getexif().get(_ORIENTATION, 0)
    turn = stated if stated in range(1, 9) else 0
    return 0 if image.format == "TIFF" and turn == 1 else turn


def _check_depth(image: Image.Image, path, bad) -> None:
    """Refuse 16-bit colour, which Pillow would silently read with 8 bits."""
    if image.format == "PNG":
        with guard.open_regular(path) as file:
            depth, colour = file.read(26)[24:26]  # IHDR: depth, colour type (0 grey, 2 RGB, 3 palette, 4 LA, 6 RGBA)
        deep = depth == 16 and colour != 0
    else:
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (8,)) if image.format == "TIFF" else (8,)
        deep = len(bits) > 1 and max(bits) > 8
    if deep:
        raise bad(f"a {image.mode} picture of 16 bits per channel", "colour must have 8 bits per channel, grey 8 or 16")


def _values(image: Image.Image, bad) -> np.ndarray:
    """Decode: [H, W] or [H, W, 3]."""
    mode = image.mode
    if mode in ("L", "RGB", "P"):
        return np.array(image)
    if mode == "1":
        return np.array(image.convert("L"))
    if mode.startswith("I;16") and mode != "I;16S":
        return np.array(image).astype(np.uint16)
    if mode in ("LA", "RGBA"):
        array = np.array(image)
        if array[..., -1].min() < 255:
            raise bad("a picture with transparent pixels", "must be opaque", "flatten it onto a background")
        return array[..., 0].copy() if mode == "LA" else array[..., :3].copy()
    raise bad(f"pixel mode {mode}", "must be grey with 8 or 16 bits, or RGB with 8 bits")


def encode_png(array: np.ndarray, path: str | Path, *, scale_for_view: bool = False, turn: int = 0) -> bytes:
    """Return the bytes of a PNG; the same input always gives the same bytes.

    Args:
      array: labels [H, W] (unchanged class numbers: 8 bits, 16 above 255), or a picture uint8 [H, W, 3].
      path: the file, for messages.
      scale_for_view: spread the labels over 0..255 to make them visible (one class: 0 and 255); cannot be undone.
      turn: the EXIF orientation of the photograph that the upright array belongs to: the file then has its pixels in the
        photograph's order, and the same tag.
    Raises:
      DataError: labels outside of 0..65535, or of 0..255 for `scale_for_view` (DATA_LABEL).
    """
    if array.dtype.kind not in "biu" or array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(f"got {array.dtype}{list(array.shape)}; a PNG must be integers [H, W] or uint8 [H, W, 3]")
    stored = as_stored(array, path)
    if stored.dtype != np.uint8 and (scale_for_view or stored.ndim == 3):
        raise DataError(
            f"{path}: values up to {stored.max()}; must be at most 255 with scale_for_view: leave it out", "DATA_LABEL"
        )
    if scale_for_view:
        stored = (stored.astype(np.uint16) * 255 // max(int(stored.max()), 1)).astype(np.uint8)
    out = io.BytesIO()
    exif = Image.Exif()
    if turn > 1:
        exif[_ORIENTATION] = turn
        stored = np.ascontiguousarray(stored_order(stored, turn))
    Image.fromarray(stored).save(out, "PNG", **({"exif": exif} if turn > 1 else {}))
    return out.getvalue()
