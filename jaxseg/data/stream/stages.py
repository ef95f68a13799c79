"""The user's own host transforms: a stage of the Grain pipeline, between reading and the device.

A transform is a pure function of (example, index, seed), whose result does not depend on the thread or process, so that a run
resumes bit for bit. `index` is the number of the example in the stream, which differs each time a row is used; `seed` is the
run's random seed.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxseg.types import Array, Batch, ConfigError
from jaxseg.utils.lookup import import_object, unknown_name

GIVEN = ("example", "index", "seed")  # the first three arguments, by position


class HostExample(TypedDict):
    """The input and output of a host transform: numpy arrays, whose shapes and dtypes must not change."""

    image: Array  # [*S, C], the dtype of the store; coordinates, where they are asked for, are its last channels
    mask: Array  # [*S] class labels


def function_of(given: str | Callable, options: Mapping[str, Any]) -> Callable:
    """Return the function of a host transform after checking its arguments.

    Args:
      given: its path "module:function", or the function.
      options: its keyword arguments.
    Raises:
      ConfigError: there is no such function, or it does not take an option.
    """
    transform = import_object(given, "host transform") if isinstance(given, str) else given
    name = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__qualname__)
    if not callable(transform):
        raise ConfigError(f"host transform {name!r} is a {type(transform).__name__}; must be a function: name one")
    takes = inspect.signature(transform).parameters.values()
    named = [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in named[len(GIVEN) :] and not any(p.kind is p.VAR_KEYWORD for p in takes):
            raise unknown_name(f"option of host transform {name!r}", option, named[len(GIVEN) :])
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes) < len(GIVEN):
        raise ConfigError(f"host transform {name!r} must take (example, index, seed, **options); docs/plugins.md shows one")
    return transform


def apply(transform: Callable, example: HostExample, index: int, seed: int, options: Mapping[str, Any], name: str) -> HostExample:
    """Apply a transform to an example.

    Raises:
      ConfigError: the result has another shape or dtype.
    """
    made = transform(example, index, seed, **options)
    for key in ("image", "mask"):
        old, new = example[key], made.get(key) if isinstance(made, Mapping) else None
        if not isinstance(new, np.ndarray) or new.shape != old.shape or new.dtype != old.dtype:
            came = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(made if new is None else new).__name__
            raise ConfigError(
                f"config.data.transforms: {name} must return {{'image': ..., 'mask': ...}}, with the {key}'s dtype and shape "
                f"unchanged, {old.dtype} {old.shape}; got {came}"
            )
    return made


class OwnTransforms:
    """The stage: (number of the batch, Batch) -> Batch. It is pickled by paths; a worker process imports the modules again.

    Args:
      transforms: ((path, options), ...), in their order.
      seed: the run's random seed.
      batch_size: B, the global batch size.
      first: start of this process's block in a global batch.
    """

    def __init__(self, transforms: Sequence[tuple[str, Mapping[str, Any]]], *, seed: int, batch_size: int, first: int):
        self._named = [(path, dict(options)) for path, options in transforms]
        self._seed, self._batch_size, self._first = seed, batch_size, first
        self._functions: list[Callable] | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_functions": None}

    def __call__(self, position: int, batch: Batch) -> Batch:
        if self._functions is None:
            self._functions = [function_of(path, options) for path, options in self._named]
        images, masks = np.array(batch["image"]), np.array(batch["mask"])
        for b in range(len(images)):
            index = position * self._batch_size + self._first + b
            example = HostExample(image=images[b], mask=masks[b])
            for (path, options), function in zip(self._named, self._functions):
                example = apply(function, example, index, self._seed, options, path)
            images[b], masks[b] = example["image"], example["mask"]
        return Batch(**{**batch, "image": images, "mask": masks})
