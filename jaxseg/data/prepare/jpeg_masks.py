"""Masks stored as JPEG, which does not keep exact values: black and white, or colours that a table lists."""

import itertools
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare.mask_values import BLACK, KEY, WHITE, MaskContent, Table, channels_of, counted, example, listed
from jaxseg.types import DataError

NEAR = 64  # black and white are values no further from 0 and 255
LEVEL, BLOCK = 24, 8  # JPEG moves no whole block of 8 x 8 pixels by more than that: there a grey was drawn
REACH = 2  # pixels over which JPEG, or a resampling before it, blurs a border
IN_COLOUR = 96, 4  # the same for colours, which JPEG stores with half as many pixels
STRAY = 5e-4  # share of the pixels that may be no such colour and at no border, no 3 x 3 of them together


def check_classes(path: Path, classes: int, table: Table | None) -> None:
    """Refuse a JPEG mask of several classes unless a table lists their colours.

    Raises:
      DataError: the classes cannot be told apart (DATA_LABEL).
    """
    if classes > 1 and not _colours(table):
        raise refusal(
            "DATA_LABEL",
            path,
            f"a JPEG mask of {classes} classes",
            "JPEG does not keep class numbers",
            "export the masks as .png"
            + ("" if table is None else f"; if classes are colours, list them in {KEY}: (('#000000', 0), ('#ff0000', 1), ...)"),
        )


def restored(raw: np.ndarray, path: Path, classes: int, table: Table | None, stray: float = STRAY) -> MaskContent:
    """Replace the values of a JPEG mask by the nearest colours of the table, or without a table by 0 and 255 (threshold 127).

    Args:
      raw: uint8 [H, W] or [H, W, 3].
      path: the file, for messages.
      classes: number of foreground classes.
      table: the user's table of colours; None for layouts without one.
      stray: the tolerated fraction of pixels that fit no colour.
    Raises:
      DataError: pixels are neither near one of the colours nor at a border of two; only one colour occurs although the picture
        has several values (such as class numbers 0 and 1); whole blocks have a grey of their own; or as `check_classes`
        (DATA_LABEL).
    """
    check_classes(path, classes, table)
    colours = _colours(table)
    meant = np.array([channels_of(colour) for colour in colours or (BLACK, WHITE)], np.int16)
    _check_apart(meant, path)
    planes = np.repeat(raw[..., None], 3, -1) if raw.ndim == 2 else raw
    distance = np.stack([np.abs(planes - colour).max(-1) for colour in meant])  # [n, H, W]
    near, reach = IN_COLOUR if colours else (NEAR, REACH)
    there = (distance <= near) & (distance == distance.min(0))
    other = ~there.any(0)
    if other.any():
        around = np.stack([ndimage.maximum_filter(one, 2 * reach + 1) for one in there])
        distance = np.where(around, distance, 256)
        other &= around.sum(0) < 2
    lonely = np.count_nonzero(there.any((1, 2))) < 2 and raw.max() != raw.min()
    solid = other.any() and ndimage.binary_erosion(other, np.ones((3, 3), bool)).any()
    drawn = not colours and ndimage.binary_erosion(distance.min(0) > LEVEL, np.ones((BLOCK, BLOCK), bool)).any()
    if lonely or solid or drawn or np.count_nonzero(other) > stray * other.size:
        raise _refused(planes, path, classes, table)
    if colours:
        return counted(np.array(colours, np.uint32)[distance.argmin(0)], packed=True)
    return counted(np.where(planes.mean(-1) > 127, np.uint8(255), np.uint8(0)))


def _colours(table: Table | None) -> tuple[int, ...]:
    """Return the colours in a table."""
    return tuple(int(key[1:], 16) for key, _ in table or () if isinstance(key, str))


def _check_apart(meant: np.ndarray, path: Path) -> None:
    """Refuse colours that are too similar, or one that lies between two others, because border pixels look like it."""
    name = lambda colour: "#" + "".join(f"{v:02x}" for v in colour)
    bad = lambda what: refusal(
        "DATA_LABEL", path, what, f"{KEY} must list colours that differ enough for JPEG", "export the masks as .png"
    )
    for a, b in itertools.combinations(meant := meant.astype(np.int64), 2):
        if np.abs(a - b).max() <= 2 * NEAR:
            raise bad(f"a JPEG mask of {name(a)} and {name(b)}")
        for c in meant:
            share = np.clip(np.dot(c - a, b - a) / np.dot(b - a, b - a), 0, 1) if c is not a and c is not b else 0
            if 0 < share < 1 and np.abs(a + share * (b - a) - c).max() <= NEAR:
                raise bad(f"a JPEG mask whose {name(c)} lies between {name(a)} and {name(b)}")


def _refused(planes: np.ndarray, path: Path, classes: int, table: Table | None) -> DataError:
    flat = (planes == planes[..., :1]).all()
    coarse = counted((np.round(planes / 127.5) * 127.5).astype(np.uint8), colours=True)
    solid = [v for v in coarse.values if ndimage.binary_erosion(coarse.array == v, np.ones((3, 3), bool)).any()]
    remedy = "export the masks as .png (a JPEG of 0 and 1 must be made again from 0 and 255)"
    if table is not None and not flat and len(solid) > 1:
        shown = MaskContent(coarse.array, tuple(solid), tuple(coarse.counts[coarse.values.index(v)] for v in solid), colours=True)
        remedy = f"say what each colour means, for instance {example(shown, classes)}, or {remedy}"
    return refusal(
        "DATA_LABEL",
        path,
        f"{'values' if flat else 'colours, about'} {listed(counted(planes[..., 0]) if flat else coarse)}",
        f"JPEG changes values: its masks are black and white (within {NEAR}, no grey areas) or of colours in {KEY} "
        f"(within {IN_COLOUR[0]})",
        remedy,
    )
