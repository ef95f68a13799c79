"""Pictures of images with coloured labels, as uint8 RGB arrays."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

# of classes 1, 2, ...: Okabe and Ito's palette, which colour-blind readers tell apart, bright colours first
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (184, 169, 0),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (127, 127, 127),
)
_RIGHT, _MISSED, _EXTRA, _CONFUSED = (0, 158, 115), (86, 180, 233), (213, 94, 0), (204, 121, 167)  # as in a page's viewer
TITLES = ("input", "truth", "prediction", "green right, blue missed, red extra, pink other class")
TILE = 256  # pixels that the longer side of a captioned tile has at least
LINE = 14  # pixels of a line of text


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert uint8 [H, W] or [H, W, C] to [H, W, 3]: three channels are kept as RGB, else the first channel is shown in grey."""
    image = image[..., None] if image.ndim == 2 else image
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)


def to_8bit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 256 bins of equal width: floor(256 (v - low) / (high - low)), clipped to 0..255; all 0 if high = low."""
    scale = 256.0 / (high - low) if high > low else 0.0
    return np.clip((np.asarray(values, np.float32) - low) * scale, 0, 255).astype(np.uint8)


def paint(rgb: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw labels [H, W] in half-transparent colours over an RGB picture [H, W, 3]."""
    colour = np.array(COLOURS, np.uint8)[(labels.astype(int) - 1) % len(COLOURS)]
    return np.where(labels[..., None] > 0, rgb // 2 + colour // 2, rgb).astype(np.uint8)


def panel(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show input, truth, prediction and errors side by side.

    Colours of the errors: green correct, blue missed, red where nothing is, pink of another class.

    Args:
      image: [H, W, C] uint8.
      truth, prediction: [H, W] class labels.
    Returns:
      uint8 [H, 4 W, 3].
    """
    rgb = to_rgb(image)
    error = rgb // 2
    error[(truth > 0) & (prediction == truth)] = _RIGHT
    error[(truth > 0) & (prediction == 0)] = _MISSED
    error[(truth == 0) & (prediction > 0)] = _EXTRA
    error[(truth > 0) & (prediction > 0) & (prediction != truth)] = _CONFUSED
    return np.concatenate([rgb, paint(rgb, truth), paint(rgb, prediction), error], axis=1)


def captioned(row: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Enlarge a `panel` to a readable size, with a title over each tile and a legend of the classes below.

    Args:
      row: uint8 [H, 4 W, 3].
      labels: names of the classes 1, 2, ...; those that do not fit into the legend are left out.
    """
    width = row.shape[1] // len(TITLES)
    times = max(1, -(-TILE // max(row.shape[0], width)))
    row = row.repeat(times, 0).repeat(times, 1)
    height, width = row.shape[0], width * times
    picture = Image.new("RGB", (row.shape[1], height + 2 * LINE))
    picture.paste(Image.fromarray(row), (0, LINE))
    draw = ImageDraw.Draw(picture)
    for i, title in enumerate(TITLES):
        draw.text((i * width + 2, 1), title, fill="white")
    at = 2
    for k, label in enumerate(labels):
        text = label.encode("latin-1", "replace").decode("latin-1")
        end = at + LINE + int(draw.textlength(text))
        if end > picture.width:
            break
        draw.rectangle((at, LINE + height + 3, at + 8, LINE + height + 11), fill=COLOURS[k % len(COLOURS)])
        draw.text((at + 11, LINE + height + 1), text, fill="white")
        at = end + 6
    return np.asarray(picture)


def sheet(tiles: Sequence[np.ndarray], found: np.ndarray, limit: int = 24) -> np.ndarray:
    """One picture of up to `limit` tiles [H, W, 3], six in a row: those with the largest `found`, in their original order."""
    chosen = np.sort(np.argsort(-np.asarray(found), kind="stable")[:limit])
    tiles = [tiles[z] for z in chosen]
    columns = min(6, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    whole = np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)
    step = max(1, whole.shape[1] // 1536)
    return np.ascontiguousarray(whole[::step, ::step])
