"""A network for slices, applied to each plane of a volume by itself.

What was trained on pictures or on single slices of volumes takes part in everything that volumes have: spacing, sliding windows
of one voxel across the planes, probabilities and labels on the scan's own grid.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxseg.layers import ForwardContext
from jaxseg.models import registry
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.types import Array, ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Which network, and along which axis its planes lie.

    Attributes:
      network: name of a network of two axes.
      axis: the axis of the volume that the network does not see, 0 to 2.
      options: options of the network.
    """

    network: str = "basicunet"
    axis: int = 2
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Planes(Segmenter):
    """The network for [B, X, Y, Z, C]; logits [B, X, Y, Z, K]. Any size along the axis across the planes."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        if config.axis not in (0, 1, 2):
            raise ConfigError(f"got axis={config.axis}; must be 0, 1 or 2, an axis of the volume")
        self.in_channels, self.num_classes, self.rank, self.axis = in_channels, num_classes, 3, config.axis
        self.network = registry.planar(
            config.network, in_channels=in_channels, num_classes=num_classes, rngs=rngs, **config.options
        )
        self.size_multiple, self.min_size = self.network.size_multiple, self.network.min_size

    def check(self, shape: tuple[int, ...]) -> None:
        """Check the image shape: that of a plane is the network's affair."""
        if len(shape) != 5:
            super().check(shape)
        self.network.check((*shape[: 1 + self.axis], *shape[2 + self.axis :]))

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        b, across = image.shape[0], image.shape[1 + self.axis]
        planes = jnp.moveaxis(image, 1 + self.axis, 1)  # [B, P, *S, C]
        found = self.network.forward(planes.reshape(b * across, *planes.shape[2:]), context)
        back = lambda a: jnp.moveaxis(a.reshape(b, across, *a.shape[1:]), 1, 1 + self.axis)
        return Outputs(back(found.logits), tuple(map(back, found.aux)))


VARIANTS = {
    "planes": Variant(Planes, Config(), in_channels=1, num_classes=2, ranks=(3,)),
    "planes_test": Variant(
        Planes, Config(network="basicunet", options={"widths": (4, 4, 4, 6, 8, 4)}), in_channels=1, num_classes=2, ranks=(3,)
    ),
}
KEY_MAPPINGS = ()
