"""Definitions that every package shares: the glossary of axes, the type of a batch, and the errors that a user can meet.

Axis letters used in all shapes; arrays are channels-last, [B, *S, C]:
  B        examples of a batch
  *S       the spatial axes, whatever their number (the rank)
  D, H, W  the spatial axes of a network, loss or metric, in the array's own order: [B, H, W, C] or [B, D, H, W, C]
  X, Y, Z  the patient's directions, in `data` and where files are read or written. In the common order (data/geometry.py) X runs
           from right to left, Y from front to back, Z from feet to head; in a file X, Y, Z are merely its first three axes
  C        channels of an image or a feature map
  K        classes, or regions
A volume in the common order, [X, Y, Z, C], is passed to the network without transposing its axes, so that D = X, H = Y, W = Z,
unless `Recipe.axes` names another order. A slice is [Y, X]: H = Y are its rows, W = X its columns; slices of a volume are stacked
as [Z, Y, X].
"""

from typing import Any, NotRequired, TypedDict

Array = Any  # a jax.Array or a numpy.ndarray; named so that signatures can be read without importing jax
LEFT_OUT = 255  # in masks: nobody annotated this voxel, it counts neither in losses nor in scores; data of 255 classes have none
Spacing = tuple[float, ...]  # millimetres per voxel along each spatial axis, in the array's axis order


class Batch(TypedDict):
    """One global batch, as the input pipeline yields it and the training step takes it."""

    image: Array  # [B, *spatial, C], the dtype of the cache (uint8 for windowed CT and photographs)
    mask: Array  # [B, *spatial] integer class labels, LEFT_OUT where data.ignore="leave_out" leaves voxels out
    index: Array  # [B] int64, position of the example in its split
    weight: NotRequired[Array]  # [B] float32, 0 for examples that only pad a batch
    target: NotRequired[Array]  # [B, *spatial, 1] float32 image in 0..1 that an autoencoder learns to output


class JaxsegError(Exception):
    """Base class of the errors that a user can cause; the message is printed as one line, and `exit_code` ends the program."""

    exit_code = 1


class ConfigError(JaxsegError, ValueError):
    """A configuration or command line that cannot work."""

    exit_code = 64


class DataError(JaxsegError, ValueError):
    """A file or a data set that cannot be used. `code` is a stable word such as DATA_TRUNCATED."""

    exit_code = 65

    def __init__(self, message: str, code: str = "DATA"):
        super().__init__(message)
        self.code = code


class CheckpointError(JaxsegError, ValueError):
    """No usable checkpoint where one is needed."""

    exit_code = 66


class StorageError(JaxsegError, OSError):
    """A disk is full, read-only or gone; run the same command again once this is solved."""

    exit_code = 74


class PeerError(JaxsegError, RuntimeError):
    """Another process was lost or does not answer; restart all processes."""

    exit_code = 75


class NonFiniteError(JaxsegError, ArithmeticError):
    """Training produced NaN or Inf several steps in a row."""

    exit_code = 76


class MismatchError(JaxsegError, ValueError):
    """Checkpoint, configuration or processes do not agree with each other."""

    exit_code = 78
