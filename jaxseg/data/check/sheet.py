"""Draw prepared images with their masks on one sheet."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data.formats.photos import encode_png
from jaxseg.utils import files
from jaxseg.utils.pictures import paint, sheet, to_8bit, to_rgb

NAME = "examples.png"
TILES, SIDE = 16, 256  # how many, and the pixels of their longer side at most; small ones are enlarged to half of it at most


@dataclasses.dataclass
class Sheet:
    """Keeps up to TILES pictures of examples, evenly spread over the data set; examples with foreground come first.

    The picture of a volume is the slice along its last axis with the most foreground.
    """

    tiles: list[np.ndarray] = dataclasses.field(default_factory=list)  # uint8 [h, w, 3]
    found: list[int] = dataclasses.field(default_factory=list)  # pixels of foreground in each
    of: int = 0  # examples seen
    _step: int = 1

    def add(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Add an example: prepared image [*S, C] and mask [*S]. If there are many, only every n-th is kept."""
        self.of += 1
        if (self.of - 1) % self._step:
            return
        if mask.ndim == 3:
            z = int((mask > 0).sum((0, 1)).argmax()) if mask.any() else mask.shape[2] // 2
            image, mask = image[:, :, z].swapaxes(0, 1), mask[:, :, z].T  # rows are Y
        self.tiles.append(_tile(image, mask))
        self.found.append(int(np.count_nonzero(mask)))
        if len(self.tiles) > 4 * TILES:
            self.tiles, self.found, self._step = self.tiles[::2], self.found[::2], self._step * 2

    def merge(self, others: Sequence["Sheet"]) -> None:
        """Add pictures that other processes kept."""
        for other in others:
            self.tiles, self.found = self.tiles + other.tiles, self.found + other.found

    def few(self) -> "Sheet":
        """Return an object with TILES of the pictures at most, to send it."""
        step = -(-len(self.tiles) // TILES) or 1
        return Sheet(self.tiles[::step], self.found[::step])

    def write(self, path: Path) -> Path:
        """Write the sheet.

        Raises:
          StorageError: the file cannot be written.
        """
        height, width = (max(tile.shape[axis] for tile in self.tiles) for axis in (0, 1))
        padded = [np.pad(t, ((0, height - t.shape[0]), (0, width - t.shape[1]), (0, 0))) for t in self.tiles]
        files.write_atomic(path, encode_png(sheet(padded, np.array(self.found), TILES), path))
        return path


def _tile(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw an example with two axes, uint8 [h, w, 3]."""
    grey = image if image.dtype == np.uint8 else to_8bit(image, float(image.min()), float(image.max()))
    h, w = mask.shape
    scale = min(max(1, SIDE // 2 // max(h, w)), SIDE / max(h, w))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    smooth = Image.BILINEAR if scale < 1 else Image.NEAREST
    picture = np.asarray(Image.fromarray(np.ascontiguousarray(to_rgb(grey))).resize(size, smooth))
    rows, columns = (np.arange(n) * m // n for n, m in zip(size[::-1], (h, w)))
    return paint(picture, mask[np.ix_(rows, columns)])
