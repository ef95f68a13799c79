"""The stages of a U-Net for a given patch: strides and kernels by nnU-Net's rules, memory by nnU-Net's estimate, and the weights
of the losses of its levels.

Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning/experiment_planners/network_topology.py (get_pool_and_conv_props);
MIC-DKFZ/dynamic-network-architectures, PlainConvUNet.compute_conv_feature_map_size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

SMALLEST = 4  # voxels along an axis at the coarsest stage
NEAR = 2  # spacings within this factor count as alike
CONVS = 2  # convolutions of each stage, down and up


class Topology(NamedTuple):
    """Strides and kernels of each stage, finest first; the patch, padded to multiples of the strides' product."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]

    @property
    def multiples(self) -> tuple[int, ...]:
        """The product of the strides of each axis; the patch must be a multiple of it."""
        return tuple(map(math.prod, zip(*self.strides)))


def topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Choose the stages of a U-Net for a patch.

    In each stage the axes are halved that are long enough and whose spacing is within a factor of 2 of the finest one that can be
    halved, so that spacings become similar. An axis has kernels of 1 until its spacing is within a factor of 2 of the finest,
    then kernels of 3.

    Args:
      spacing: mm along each axis.
      patch: voxels along each axis.
    """
    spacing_now, size, axes = list(spacing), list(patch), range(len(spacing))
    strides, kernels, kernel = [(1,) * len(axes)], [], [1] * len(axes)
    while True:
        long = [a for a in axes if size[a] >= 2 * SMALLEST]
        halved = [a for a in long if spacing_now[a] / min(spacing_now[b] for b in long) < NEAR]
        if not halved or len(halved) == 1 and size[halved[0]] < 3 * SMALLEST:
            break
        kernel = [3 if k == 3 or s / min(spacing_now) < NEAR else 1 for k, s in zip(kernel, spacing_now)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in halved else 1 for a in axes))
        for a in halved:
            spacing_now[a], size[a] = spacing_now[a] * 2, math.ceil(size[a] / 2)
    kernels.append((3,) * len(axes))
    found = Topology(tuple(strides), tuple(kernels), ())
    return found._replace(patch=tuple(math.ceil(n / m) * m for n, m in zip(patch, found.multiples)))


def feature_values(found: Topology, widths: Sequence[int], outputs: int) -> int:
    """Return nnU-Net's measure of memory: the number of values in the outputs of all convolutions for one patch.

    Args:
      found: the stages.
      widths: channels of the stages.
      outputs: channels of the full-resolution output; other outputs are not counted.
    """
    size, voxels = found.patch, []
    for stride in found.strides:
        size = tuple(n // s for n, s in zip(size, stride))
        voxels.append(math.prod(size))
    down = sum(CONVS * width * n for width, n in zip(widths, voxels))
    up = sum((CONVS + 1) * width * n for width, n in zip(widths[:-1], voxels[:-1]))  # with the transposed convolution
    return down + up + outputs * voxels[0]


def output_weights(levels: int) -> tuple[float, ...]:
    """Return the loss weights of a decoder's levels, finest first: halved from level to level, 0 for the coarsest, sum 1.

    Source: nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py.
    """
    shares = [1 / 2**i for i in range(levels)]
    shares[-1] *= levels == 1
    return tuple(share / sum(shares) for share in shares)
