"""How a network is applied to prepared images: to images of its input size, by sliding windows, to downsampled volumes, or as
the second network of a cascade. `run.open_run` chooses one of these once for a run. Each of them maps

    examples [N, *S, C] (the slices of a case, or a single volume)  ->  logits [N, *S, K]

and supports mirroring, ensembles of several sets of weights, and all devices of this process.
"""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.data.prepare.resample import resample_channels
from jaxseg.infer import cascade, tta
from jaxseg.infer.labels import logits_of
from jaxseg.infer.tiles import GRAIN
from jaxseg.infer.window import DONATED, accumulate, sliding_window
from jaxseg.models.functional import Network
from jaxseg.ops import coordinates, devices
from jaxseg.ops import space as rows
from jaxseg.ops.image import standardise, to_float
from jaxseg.ops.precision import compute_dtype
from jaxseg.programs.kept import Kept, KeptCalls
from jaxseg.types import Array, ConfigError, DataError
from jaxseg.utils.machine import memory

Weights = Sequence[tuple[dict, dict]]  # (params, state) of each copy of the network; their logits are averaged


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


class Forward:
    """Map batches of the network's input size to logits.

    A batch is spread over the devices of this process: one of 2 or more becomes a multiple of their number, with a warning. With
    `space` as many of them compute an image together (`ops.space`), and the batch is spread over groups of them.

    Args:
      network: from `functional.split`.
      num_classes: K, the number of logits.
      batch: examples or windows per forward pass; 1 keeps to one device, or one group of devices.
      mirror: spatial axes to flip; the logits of all flips are averaged.
      dtype: compute dtype, a value of train.dtype.
      mean, std: per channel, see `records.Recipe`.
      space: devices that share the rows of an image, config.mesh.space.
      kept: where programs on one device are kept; None: nowhere.
    Raises:
      ConfigError: the devices of this process are no multiple of `space`.
    """

    def __init__(
        self,
        network: Network,
        *,
        num_classes: int,
        batch: int,
        mirror: Sequence[int] = (),
        dtype: str = "float32",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        space: int = 1,
        kept: Kept | None = None,
    ):
        self.network, self.mean, self.std, self.space = network, tuple(mean), tuple(std), space
        self.module = network.merge(*network.shapes())  # without values
        self.size_multiple = self.module.size_multiple
        self.num_classes, self.mirror, dtype = num_classes, tuple(mirror), compute_dtype(dtype)
        own = jax.local_devices()
        rows.check(space, len(own))
        self.groups = groups = len(own) // space if batch > 1 else 1
        self.batch, spread = -(-batch // groups) * groups, groups * space > 1
        self.kept = None if spread else kept
        if self.batch != batch:
            _say_once(
                f"a forward pass takes {self.batch} images or windows in place of {batch}: a multiple of {groups} "
                + ("devices" if space == 1 else f"groups of {space} devices")
            )
        shape, names = ((groups, space), ("data", rows.AXIS)) if space > 1 else ((groups,), ("data",))
        mesh = Mesh(np.array(own[: groups * space]).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        over_batch = NamedSharding(mesh, PartitionSpec("data"))

        def forward(params, state, image):
            if spread:
                image = jax.lax.with_sharding_constraint(image, over_batch)
            image = standardise(to_float(image), mean, std).astype(dtype)
            logits = network.apply(params, state, image)[0].logits
            return jax.lax.with_sharding_constraint(logits, self._everywhere) if spread else logits

        self._forward = devices.over(mesh, forward)

    def place(self, params: dict, state: dict) -> tuple[dict, dict]:
        """Copy weights to the devices of this process."""
        local = lambda a: a.addressable_data(0) if isinstance(a, jax.Array) and not a.is_fully_addressable else a
        return jax.device_put(jax.tree.map(local, (params, state)), self._everywhere)

    def averaged(self, weights: Weights) -> jax.tree_util.Partial:
        """Return a function [n, *S, C] -> mean logits [n, *S, K] over the sets of weights (each from `place`), without flips."""
        return tta.averaged(self._forward, weights)

    def mirrored(self, weights: Weights) -> jax.tree_util.Partial:
        """Return the same function with the mean also over the flips."""
        return tta.mirrored(self.averaged(weights), self.mirror)


def fewer(batch: int, groups: int) -> int:
    """Return half of a batch, as a multiple of the groups of devices that share it."""
    return max(batch // 2 // groups, 1) * groups


def _too_large(error: Exception) -> DataError:
    return DataError(
        f"one image or window at a time does not fit into memory ({' '.join(str(error).split())[:160]}); predict where there is "
        "more memory, for instance on a CPU with JAX_PLATFORMS=cpu",
        "DATA_TOO_LARGE",
    )


class WholeImages:
    """Apply a network to examples of its own input size, batch by batch; smaller batches from where memory is full.

    Args:
      forward: the network.
    """

    def __init__(self, forward: Forward):
        self.forward, self._batch = forward, forward.batch
        run = lambda forward, images: forward(images)
        self._run = KeptCalls(run, forward.kept) if forward.kept else jax.jit(run)

    def __call__(self, weights: Weights, examples: np.ndarray) -> np.ndarray:
        """Return logits float32 [N, *S, K] of examples [N, *S, C]; the last batch is padded.

        Raises:
          DataError: a single example does not fit into memory (DATA_TOO_LARGE).
        """
        forward, found, start = self.forward.mirrored(weights), [], 0
        while start < len(examples):
            part = np.asarray(examples[start : start + self._batch])
            filled = np.concatenate([part, np.repeat(part[-1:], self._batch - len(part), 0)])
            try:
                found.append(np.asarray(self._run(forward, filled), np.float32)[: len(part)])
                start += len(part)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                self._shrink(error)
        return np.concatenate(found)

    def _shrink(self, error: Exception) -> None:
        """Take fewer images at once from now on, or raise."""
        if not memory.exhausted(error):
            raise error
        if self._batch <= self.forward.groups:
            raise _too_large(error) from error
        self._batch = fewer(self._batch, self.forward.groups)
        _say_once(f"memory is full: {self._batch} images at once from now on; the results are the same")


class Windows:
    """Apply a network to examples of any size by overlapping windows; where memory is full, first fewer of them at once, then sum
    their logits in the host's memory slab by slab, then in a file.

    Args:
      forward: the network; its input has the examples' channels, plus one per axis with `coordinates`.
      window: the network's input size.
      coordinates: append each voxel's position in the volume.
      whole: one window that holds the whole example; `window` is its least size.
      options: overlap, blend, positions, accumulator, sums of `window.sliding_window`.
    """

    def __init__(self, forward: Forward, window: Sequence[int], *, coordinates: bool = False, whole: bool = False, **options):
        self.forward, self.coordinates, self.whole = forward, coordinates, whole
        self.options = {"window": tuple(window), "num_classes": forward.num_classes, "batch": forward.batch, **options}
        if forward.kept:
            self.options["accumulated"] = KeptCalls(accumulate, forward.kept, DONATED)

    def __call__(self, weights: Weights, examples: np.ndarray) -> Array:
        """Return logits [N, *S, K] of examples [N, *S, C], of the dtype in which they were summed.

        Raises:
          DataError: a single window does not fit into memory (DATA_TOO_LARGE).
        """
        if self.coordinates:
            examples = np.stack([np.asarray(coordinates.append(np.asarray(e, np.float32))) for e in examples])
        window = self._around(examples.shape[1:-1]) if self.whole else self.options["window"]
        if self.options.get("sums") == "float16":
            apply = functools.partial(self._rounded, weights, window)
        else:
            apply = functools.partial(self._fitting, self.forward.mirrored(weights), window)
        if len(examples) == 1:
            return apply(np.asarray(examples))
        return np.concatenate([np.asarray(apply(one[None])) for one in examples])  # one program, however many slices a case has

    def _rounded(self, weights: Weights, window: Sequence[int], example: np.ndarray) -> Array:
        """As nnU-Net: the windows of each set of weights are summed apart, and their means added and divided in 16 bits."""
        alone = (tta.one_by_one(self.forward.averaged([one]), self.forward.mirror) for one in weights)
        found = (self._fitting(forward, window, example) for forward in alone)
        if len(weights) == 1:
            return next(found)
        first = next(found)
        total = np.array(first) if isinstance(first, jax.Array) else first
        for other in found:
            for plane, more in zip(total[0], np.asarray(other)[0]):
                plane += more
        for plane in total[0]:
            plane /= len(weights)
        return total

    def _fitting(self, forward: Callable[[Array], Array], window: Sequence[int], example: np.ndarray) -> Array:
        """Apply the windows with options that memory has room for."""
        while True:
            try:
                return jax.block_until_ready(sliding_window(forward, example, **self.options | {"window": window}))
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                self._shrink(error)

    def _shrink(self, error: Exception) -> None:
        """Take the next option that needs less memory from now on, or raise."""
        if not memory.exhausted(error):
            raise error
        batch, accumulator = self.options["batch"], self.options.get("accumulator", "auto")
        if batch > self.forward.groups and not isinstance(error, MemoryError):
            self.options["batch"] = fewer(batch, self.forward.groups)
            _say_once(f"memory is full: {self.options['batch']} windows at once from now on; the results are the same")
        elif accumulator in ("auto", "device") and not isinstance(error, MemoryError):
            self.options["accumulator"] = "host"
            _say_once("memory is full: logits are summed in the host's memory, slab by slab; the results are the same")
        elif accumulator != "memmap" and isinstance(error, MemoryError):
            self.options["accumulator"] = "memmap"
            _say_once("memory is full: logits are summed in a file, slab by slab; the results are the same")
        else:
            raise _too_large(error) from error

    def _around(self, size: Sequence[int]) -> tuple[int, ...]:
        """The window that holds an image of this size: rounded up as the network needs it, and so that few programs compile.

        Raises:
          ConfigError: the network takes images of one size only.
        """
        forward, step = self.forward, math.lcm(GRAIN[len(size)], self.forward.size_multiple)
        steps = (math.lcm(step, forward.space), *(step,) * (len(size) - 1))
        window = tuple(max(w, -(-n // s) * s) for n, w, s in zip(size, self.options["window"], steps))
        try:
            forward.module.check((1, *window, forward.module.in_channels))
        except ValueError as error:
            raise ConfigError(f"config.infer.whole=True: {error}, or set it to False") from error
        return window


class Shrunk:
    """Apply a region-of-interest network to whole volumes downsampled to its input size; its logits are resampled back.

    Args:
      forward: the network.
      size: the network's input size.
      coordinates: append each voxel's position in the volume, before downsampling.
    """

    def __init__(self, forward: Forward, size: Sequence[int], *, coordinates: bool):
        self.size, self.coordinates, self.forward, self._whole = tuple(size), coordinates, forward, WholeImages(forward)

    def __call__(self, weights: Weights, examples: np.ndarray) -> np.ndarray:
        """Return logits float32 [N, X, Y, Z, K] of volumes [N, X, Y, Z, C]."""
        small = lambda volume: np.asarray(cascade.roi_input(np.asarray(volume, np.float32), self.size, self.coordinates))
        logits = self._whole(weights, np.stack([small(volume) for volume in examples]))
        return np.stack([resample_channels(one, examples.shape[1:4]) for one in logits])


class Cascade:
    """Segment crops around the regions that a first network finds; the rest is background with certainty (`cascade.segment`).

    Args:
      first: the region-of-interest network, and its `weights`.
      second: the network that segments the crops: `Windows` of the crops' size.
      size: size of the crops.
      activation: "softmax" or "sigmoid", for the second network's logits.
      options: max_instances, min_size (0: `roi_min_size`) and merge of `cascade.segment`.
    """

    def __init__(self, first: Shrunk, first_weights: Weights, second: Windows, size: Sequence[int], activation: str, **options):
        self.forward = second.forward
        self._first, self._first_weights, self._second = first, first_weights, second
        self._size, self._activation, self._options = tuple(size), activation, dict(options)
        self._options["min_size"] = self._options["min_size"] or roi_min_size(first.size)

    @property
    def rule(self) -> dict[str, Any]:
        """How regions are found and their crops joined, as plain values."""
        about = {"crop": self._size, "activation": self._activation, "coordinates": self._second.coordinates}
        return about | {"roi_size": self._first.size, "roi_coordinates": self._first.coordinates, **self._options}

    def __call__(self, weights: Weights, examples: np.ndarray) -> np.ndarray:
        """Return logits float32 [N, X, Y, Z, K] of volumes [N, X, Y, Z, C]."""
        find, segment = self._first.forward.averaged(self._first_weights), self.forward.averaged(weights)
        return np.stack([self._scores(find, segment, np.asarray(one, np.float32)) for one in examples])

    def _scores(self, find: Callable, segment: Callable, volume: np.ndarray) -> np.ndarray:
        """Return logits float32 [X, Y, Z, K] of a volume."""
        scores = cascade.segment(
            find,
            segment,
            volume,
            num_classes=self.forward.num_classes,
            roi_size=self._first.size,
            crop=self._size,
            activation=self._activation,
            **self._options,
            roi_coordinates=self._first.coordinates,
            include_coordinates=self._second.coordinates,
        ).scores
        if self._options["merge"] == "max":
            return np.asarray(scores)
        return logits_of(np.asarray(scores), sigmoid=self._activation == "sigmoid")


Application = WholeImages | Windows | Shrunk | Cascade


def roi_min_size(size: Sequence[int]) -> int:
    """Return the voxel count below which a region of interest is dropped: 50 at 64^3, the same fraction at other sizes."""
    return max(1, round(50 * float(np.prod(size)) / 64**3))
