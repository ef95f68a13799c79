"""Sizes that a choice of lowering may look at, of shapes that may hold a symbolic batch (`jax.export`)."""

from collections.abc import Sequence


def known(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` with 1 for every symbolic dimension: a choice reads a batch of unknown size as one image."""
    return tuple(n if isinstance(n, int) else 1 for n in shape)
