"""Sizes for choosing a lowering, from shapes that may have a symbolic batch dimension (`jax.export`)."""

from collections.abc import Sequence


def known(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` with 1 for every symbolic dimension, so that a batch of unknown size counts as one image."""
    return tuple(n if isinstance(n, int) else 1 for n in shape)
