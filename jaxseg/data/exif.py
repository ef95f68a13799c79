"""How the orientations of EXIF turn a picture; the exported runner holds a copy of this module."""

import numpy as np

UPRIGHT = {  # EXIF orientation -> from the file's pixels to the upright picture (JEITA CP-3451, tag 274)
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """Return a view of a file's pixels [H, W(, C)] as they are displayed with an EXIF orientation (0 and 1: unchanged)."""
    return UPRIGHT[turn](array) if turn in UPRIGHT else array


def stored_order(array: np.ndarray, turn: int) -> np.ndarray:
    """Invert `upright`: return a view in the order of the file's pixels."""
    return upright(array, {6: 8, 8: 6}.get(turn, turn))
