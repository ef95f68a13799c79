"""Pictures of images with coloured labels, as uint8 RGB arrays; numpy only."""

from collections.abc import Sequence

import numpy as np

_COLOURS = np.array(
    [(0, 0, 0), (230, 60, 60), (70, 190, 70), (70, 120, 255), (240, 200, 60), (200, 90, 220), (80, 210, 210), (240, 140, 50)],
    np.uint8,
)


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
    colour = _COLOURS[np.where(labels > 0, (labels.astype(int) - 1) % (len(_COLOURS) - 1) + 1, 0)]
    return np.where(labels[..., None] > 0, rgb // 2 + colour // 2, rgb).astype(np.uint8)


def panel(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show input, truth, prediction and errors side by side.

    Colours of the errors: green correct, red missed or of a wrong class, blue false positive.

    Args:
      image: [H, W, C] uint8.
      truth, prediction: [H, W] class labels.
    Returns:
      uint8 [H, 4 W, 3].
    """
    rgb = to_rgb(image)
    error = rgb // 2
    error[(truth > 0) & (prediction == truth)] = (0, 160, 0)
    error[(truth > 0) & (prediction != truth)] = (220, 40, 40)
    error[(truth == 0) & (prediction > 0)] = (60, 110, 255)
    return np.concatenate([rgb, paint(rgb, truth), paint(rgb, prediction), error], axis=1)


def sheet(tiles: Sequence[np.ndarray], found: np.ndarray, limit: int = 24) -> np.ndarray:
    """One picture of up to `limit` tiles [H, W, 3], six in a row: those with the largest `found`, in their original order."""
    chosen = np.sort(np.argsort(-np.asarray(found), kind="stable")[:limit])
    tiles = [tiles[z] for z in chosen]
    columns = min(6, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    whole = np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)
    step = max(1, whole.shape[1] // 1536)
    return np.ascontiguousarray(whole[::step, ::step])
