"""Patches of volumes, slices and pictures in an order that depends only on (seed, position), read by Grain.

The stream is endless: batch b holds the patches bB .. bB + B - 1. With V examples (volumes, or slices), patch n takes slot
n % (V M) of epoch n // (V M), M = per_volume; an epoch is a permutation of slots that depends only on (seed, epoch), and holds
each example M times. The position of a patch is drawn by Philox with the key (seed, n) from the example's shape and foreground;
it depends neither on the batch size nor on the numbers of workers and processes.

A fraction p/q of the patches, those with (n p) % q < p, is centred on foreground: first a class is drawn uniformly among those
in the example, then one of its voxels. This is nnU-Net's oversampling ("nnunetv2/training/dataloading/data_loader.py"), which
uses the last third of each batch; here the fraction is exact over any q consecutive patches, for any batch size.

Where voxels are left out (`DataSet.left_out`), all other patches are centred on an annotated voxel of any class, as in nnU-Net.
Else their start, for p voxels along an axis of length L, is uniform in 0..L - p ("uniform"); or they are centred on
any voxel and then shifted inside ("centre_clipped", the BraTS 3-D project's rule): for 128 of 155 voxels, 83 % of them then
touch a border instead of 7 %.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.store.per_case import PerCase, open_store
from jaxseg.data.stream import pipeline
from jaxseg.data.stream.stages import OwnTransforms
from jaxseg.types import Batch, ConfigError
from jaxseg.utils.lookup import lookup

AXES = {2: "(rows, columns) in pixels", 3: "(x, y, z) in voxels"}
POSITIONS = ("uniform", "centre_clipped")  # of patches that are not centred on foreground
WORDS = 8  # raw words a patch draws from: class, voxel, up to three coordinates, and room


class PatchRule(NamedTuple):
    """The rule that decides a patch's position in its example."""

    patch: tuple[int, ...]
    seed: int
    share: Fraction
    positions: str = "uniform"

    def foreground(self, n: int) -> bool:
        """Return whether patch n is centred on foreground."""
        return n * self.share.numerator % self.share.denominator < self.share.numerator

    def start(self, store: PerCase, row: int, n: int) -> tuple[int, ...]:
        """Return the first corner of patch n in example `row`; 0 along axes that are shorter than the patch."""
        shape, counts = store.rows[row]["shape"], store.rows[row]["foreground"]
        # the permutations of the epochs have the same keys at counter 0
        words = np.random.Philox(key=np.array([self.seed, n], np.uint64), counter=[0, 0, 0, 1]).random_raw(WORDS).tolist()
        present = [k for k, count in enumerate(counts, 1) if count]
        if self.foreground(n) and present:
            k = present[_below(words[0], len(present))]
            voxels = store.foreground(row, k)
            voxel = voxels[_below(words[1], len(voxels))]
            centre = [int(i) for i in np.unravel_index(int(voxel), shape)]
        elif len(store.rows[row]["kept"]) > len(counts) and len(voxels := store.foreground(row, len(counts) + 1)):  # annotated
            centre = [int(i) for i in np.unravel_index(int(voxels[_below(words[1], len(voxels))]), shape)]
        elif self.positions == "uniform":
            return tuple(_below(word, max(length - p, 0) + 1) for word, p, length in zip(words[2:], self.patch, shape))
        else:
            centre = [_below(word, length) for word, length in zip(words[2:], shape)]
        return tuple(min(max(c - p // 2, 0), max(length - p, 0)) for c, p, length in zip(centre, self.patch, shape))


def patch_batches(
    store: PerCase,
    indices: Sequence[int],
    *,
    batch_size: int,
    patch: Sequence[int],
    seed: int,
    start_batch: int = 0,
    workers: int = 0,
    share: Fraction | float = Fraction(1, 3),
    positions: str = "uniform",
    per_volume: int = 16,
    coordinates: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    max_samples: int = 0,
    transforms: Sequence[Callable[[Batch], Batch]] = (),
    own: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> pipeline.Batches:
    """Return this process's part of an endless stream of batches of patches; close it, or use it in a `with` block.

    Args:
      store: the volumes, slices or pictures.
      indices: row numbers of the training split; no other example is read.
      batch_size: B, the global batch size; each process yields b = B / process_count.
      patch: patch size, one length for each axis of the examples. Smaller examples are padded at their end: image 0, mask 0.
      seed: random seed of the order and of the positions.
      start_batch: position of the first batch, 0 for a fresh run.
      workers: number of reading processes; 0: a thread reads ahead.
      share: fraction (0-1) of the patches that are centred on foreground; p/q with q up to 1000.
      positions: rule for the other patches, one of POSITIONS.
      per_volume: number of patches from each example in an epoch.
      coordinates: append a channel for each axis with the voxel's position in the whole volume, 0..1 (0 in the padding).
      process_index, process_count: this process and how many there are.
      max_samples: use at most this many of the indices, evenly spaced; 0 for all.
      transforms, own: further stages, as for `pipeline.train_batches`.
    Returns:
      iterator of Batch: image [b, *patch, C (+ 3)] of the store's dtype, float32 with coordinates; mask uint8 or uint16
      [b, *patch]; index int64 [b] (row numbers of the store).
    Raises:
      ConfigError: sizes do not fit each other, or there are workers before absl's flags are parsed.
    """
    rows = pipeline.training_rows(indices, store, max_samples)
    patch = tuple(int(p) for p in patch)
    if len(patch) != store.rank or min(patch) < 1:
        raise ConfigError(f"got a patch of {patch}; must be {AXES[store.rank]}, each at least 1")
    if not 0 <= share <= 1:
        raise ConfigError(f"got a share of {share} foreground patches; must be 0 to 1")
    lookup("position of patches", positions, dict.fromkeys(POSITIONS))
    steps_per_epoch(len(rows), batch_size, per_volume)
    part = pipeline.share_of(batch_size, process_index, process_count)
    examples = OwnTransforms(own, seed=seed, batch_size=batch_size, first=part.first) if own else None
    order = _PatchOrder(rows, batch_size, part, seed, per_volume)
    rule = PatchRule(patch, order.seed, Fraction(share).limit_denominator(1000), positions)
    read = functools.partial(_read, rule=rule, coordinates=coordinates)
    return pipeline.Batches(pipeline.Reader(store, open_store, order, read), start_batch, workers, transforms, examples)


def steps_per_epoch(examples: int, batch_size: int, per_volume: int = 16) -> int:
    """Whole batches in an epoch of per_volume patches of each example.

    Raises:
      ConfigError: not even one.
    """
    if per_volume < 1:
        raise ConfigError(f"got {per_volume} patches of each example; must be at least 1")
    return pipeline.steps_per_epoch(examples * per_volume, batch_size)


class _PatchOrder:
    """Maps a batch number to this process's examples and patch numbers."""

    def __init__(self, rows: np.ndarray, batch_size: int, share: pipeline.Share, seed: int, per_volume: int):
        self.rows, self.batch_size, self.share, self.seed = rows, batch_size, share, int(seed) % 2**64
        self.slots = len(rows) * per_volume
        self._latest = (-1, None)

    def __len__(self) -> int:
        return pipeline.ENDLESS

    def __call__(self, position: int) -> tuple[np.ndarray, list[int]]:
        start = position * self.batch_size + self.share.first
        numbers = list(range(start, start + self.share.size))
        return np.array([self._row(n) for n in numbers], np.int64), numbers

    def _row(self, n: int) -> int:
        epoch, place = divmod(n, self.slots)
        latest, order = self._latest
        if latest != epoch:
            order = pipeline.permutation(self.slots, self.seed, epoch)
            self._latest = (epoch, order)
        return self.rows[order[place] % len(self.rows)]


def _read(store: PerCase, rows: np.ndarray, numbers: list[int], *, rule: PatchRule, coordinates: bool) -> Batch:
    c, rank = store.channels, store.rank
    filled = all(p <= length for row in rows.tolist() for p, length in zip(rule.patch, store.rows[row]["shape"]))
    make = np.empty if filled else np.zeros  # the zeros that stay are the padding
    image = make((len(rows), *rule.patch, c + rank * coordinates), np.float32 if coordinates else store.dtype)
    mask = make((len(rows), *rule.patch), dtype_for(len(store.labels)))
    for b, (row, n) in enumerate(zip(rows.tolist(), numbers)):
        shape = store.rows[row]["shape"]
        there = tuple(slice(s, s + p) for s, p in zip(rule.start(store, row, n), rule.patch))  # clipped by the example
        here = tuple(slice(0, min(p, length)) for p, length in zip(rule.patch, shape))
        image[b][here][..., :c], mask[b][here] = store.read(row, there)
        if coordinates:
            for axis, length in enumerate(shape):
                line = np.linspace(0.0, 1.0, length, dtype=np.float32)[there[axis]]
                image[b][here][..., c + axis] = line.reshape([-1 if a == axis else 1 for a in range(rank)])
    return Batch(image=image, mask=mask, index=rows)


def _below(word: int, n: int) -> int:
    """Map a raw 64-bit word to 0..n-1; the bias is less than n / 2^64."""
    return word * n >> 64
