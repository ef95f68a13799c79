"""Host transforms of one's own: a stage of the Grain pipeline, between reading and the device.

A transform is a pure function of (example, index, seed): the same three give the same result in whatever thread or process it
runs, so that a run resumes with the same bits. `index` is the number of the example in the stream, another one each time that a
row comes by; `seed` is the run's.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxseg.types import Array, Batch, ConfigError
from jaxseg.utils.lookup import import_object, unknown_name

GIVEN = ("example", "index", "seed")  # the first three arguments, by position


class HostExample(TypedDict):
    """What a host transform takes and gives: numpy arrays, whose shapes and dtypes stay."""

    image: Array  # [*S, C], the dtype of the store; coordinates, where they are asked for, are its last channels
    mask: Array  # [*S] class labels


def function_of(given: str | Callable, options: Mapping[str, Any]) -> Callable:
    """The function of a host transform, after a look at what it takes.

    Args:
      given: its path "module:function", or the function.
      options: its keyword arguments.
    Raises:
      ConfigError: no such function, or an option that it does not take.
    """
    transform = import_object(given, "host transform") if isinstance(given, str) else given
    name = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__qualname__)
    if not callable(transform):
        raise ConfigError(f"host transform {name!r} is a {type(transform).__name__}; name a function")
    takes = inspect.signature(transform).parameters.values()
    named = [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in named[len(GIVEN) :] and not any(p.kind is p.VAR_KEYWORD for p in takes):
            raise unknown_name(f"option of host transform {name!r}", option, named[len(GIVEN) :])
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes) < len(GIVEN):
        raise ConfigError(f"host transform {name!r} must take (example, index, seed, **options); docs/plugins.md shows one")
    return transform


def apply(transform: Callable, example: HostExample, index: int, seed: int, options: Mapping[str, Any], name: str) -> HostExample:
    """The example that a transform makes of one.

    Raises:
      ConfigError: it is of another shape or dtype.
    """
    made = transform(example, index, seed, **options)
    for key in ("image", "mask"):
        old, new = example[key], made.get(key) if isinstance(made, Mapping) else None
        if not isinstance(new, np.ndarray) or new.shape != old.shape or new.dtype != old.dtype:
            came = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(made if new is None else new).__name__
            raise ConfigError(
                f"config.data.transforms: {name} must give {{'image': ..., 'mask': ...}}, the {key} of the dtype and shape "
                f"that it had, {old.dtype} {old.shape}; got {came}"
            )
    return made


class OwnTransforms:
    """The stage: (number of the batch, Batch) -> Batch. Pickled by paths; a worker process imports the modules itself.

    Args:
      transforms: ((path, options), ...), in their order.
      seed: of the run.
      batch_size: B, global.
      first: place of this process's share in a global batch.
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
