"""Base class of nnU-Net's U-Nets and MONAI's DynUNet: stages with kernels and strides for each axis, levels, heads on levels."""

import math
from collections.abc import Sequence

import jax

from jaxseg.layers import ForwardContext
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.types import Array, ConfigError

Sizes = int | tuple[int, ...]  # one size for all axes, or one for each


class StagedUNet(Segmenter):
    """Base class of U-Nets with encoder stages and decoder levels.

    A subclass sets `stages`, `levels` (coarsest first) and `heads` (finest first), and calls `set_strides`.
    """

    stem = None

    def set_strides(self, strides: Sequence[tuple[int, ...]]) -> None:
        """Set the image sizes that stages with these strides allow."""
        self.multiples = tuple(math.prod(s[axis] for s in strides) for axis in range(self.rank))
        self.size_multiple = max(self.multiples)
        self.min_size = 2 * self.size_multiple  # an InstanceNorm over a single position would return its bias

    def check(self, shape: tuple[int, ...]) -> None:
        """Check the image shape like `Segmenter.check`, with a divisor for each axis."""
        if len(set(self.multiples)) == 1 or len(shape) != self.rank + 2:
            super().check(shape)
            return
        super().check((*shape[:1], *(self.min_size,) * self.rank, *shape[-1:]))  # batch and channels
        size = shape[1:-1]
        if any(n % m for n, m in zip(size, self.multiples)) or math.prod(size) < 2 * math.prod(self.multiples):
            do = [max(math.ceil(n / m), 1) * m for n, m in zip(size, self.multiples)]
            raise ValueError(
                f"got an image of spatial size {tuple(size)}; {type(self).__name__} needs sizes divisible by {self.multiples} "
                f"and more than one position at its coarsest stage: pad or resize to {tuple(do)} or more"
            )

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips, maps = image, [], []
        if self.stem is not None:
            x = self.stem(x, context)
        for i, stage in enumerate(self.stages):
            with jax.named_scope(f"down{i}"):
                x = stage(x, context)
            skips.append(x)
        skips.pop()
        for i, level in enumerate(self.levels):
            with jax.named_scope(f"up{i + 1}"):
                x = level(x, skips.pop(), context)
            maps.insert(0, x)
        used = self.heads if context.train else self.heads[:1]
        logits = [head(m) for head, m in zip(used, maps)]
        return Outputs(logits[0], tuple(logits[1:]))


def each(name: str, given: Sequence, n: int, default: tuple) -> tuple:
    """`given` if it has `n` entries, or the default for ().

    Raises:
      ConfigError: `given` has another number of entries.
    """
    if len(given) not in (0, n):
        raise ConfigError(f"got {name}={tuple(given)}; must have {n} entries for these widths, or be ()")
    return tuple(given) or default


def sizes(name: str, given: Sequence[Sizes], rank: int, default: tuple) -> list[tuple[int, ...]]:
    """For each stage one size per axis; () gives the default, whose length is the number of stages.

    Raises:
      ConfigError: another number of stages or axes, or an even kernel.
    """
    return [_per_axis(name, value, rank) for value in each(name, given, len(default), default)]


def _per_axis(name: str, value: Sizes, rank: int) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or not all(isinstance(v, int) and v >= 1 and (v % 2 or name == "strides") for v in values):
        raise ConfigError(
            f"got {value} in {name}; must be one {'' if name == 'strides' else 'odd '}whole number, or one per axis ({rank})"
        )
    return values
