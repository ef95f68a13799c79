"""A network over prepared volumes: sliding windows, flips, several devices; and labels from its logits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.infer import tta
from jaxseg.infer.window import sliding_window
from jaxseg.metrics.regions import labels_from_regions
from jaxseg.models.functional import Network
from jaxseg.ops import coordinates
from jaxseg.ops.image import standardise
from jaxseg.types import Array


class VolumeNetwork:
    """Logits of whole volumes.

    Windows are spread over the devices of this process where their number divides; the accumulator stays on each.

    Args:
      network: from `functional.split`; its input has the volume's channels, plus 3 with `coordinates`.
      window: (X, Y, Z) voxels.
      num_classes: K of its logits.
      overlap, blend, positions, accumulator: of `window.sliding_window`.
      windows: per forward pass.
      mirror: axes to flip for averaging.
      dtype: compute dtype.
      mean, std: of the channels, see `records.Recipe`.
      coordinates: append each voxel's place in the volume.
    """

    def __init__(self, network: Network, *, window: Sequence[int], num_classes: int, overlap: float = 0.25,
                 blend: str = "gaussian", positions: str = "monai", accumulator: str = "auto", windows: int = 2,
                 mirror: Sequence[int] = (), dtype: str = "float32", mean: Sequence[float] = (), std: Sequence[float] = (),
                 coordinates: bool = False):
        self.num_classes, self.coordinates, self.mirror = num_classes, coordinates, tuple(mirror)
        self._options = {"window": tuple(window), "num_classes": num_classes, "overlap": overlap, "blend": blend,
                         "positions": positions, "accumulator": accumulator, "batch": windows}
        devices = jax.local_devices()
        spread = len(devices) > 1 and windows % len(devices) == 0
        mesh = Mesh(np.array(devices if spread else devices[:1]), ("data",), axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        over_batch = NamedSharding(mesh, PartitionSpec("data"))

        def forward(params, state, image):
            if spread:
                image = jax.lax.with_sharding_constraint(image, over_batch)
            logits = network.apply(params, state, standardise(image, mean, std).astype(dtype))[0].logits
            return jax.lax.with_sharding_constraint(logits, self._everywhere) if spread else logits

        self._forward = forward

    def place(self, params: dict, state: dict) -> tuple[dict, dict]:
        """Weights on the devices of this process, from wherever they are."""
        local = lambda a: a.addressable_data(0) if isinstance(a, jax.Array) and not a.is_fully_addressable else a
        return jax.device_put(jax.tree.map(local, (params, state)), self._everywhere)

    def partial(self, params: dict, state: dict, others: Sequence[tuple[dict, dict]] = ()) -> jax.tree_util.Partial:
        """Windows [n, *window, C] -> logits [n, *window, K] with weights from `place`; the mean over those of others, too."""
        return tta.averaged(self._forward, [(params, state), *others])

    def __call__(self, params: dict, state: dict, image: np.ndarray, others: Sequence[tuple[dict, dict]] = ()) -> Array:
        """Logits [X, Y, Z, K] of a prepared volume [X, Y, Z, C]; weights as for `partial`."""
        if self.coordinates:
            image = np.asarray(coordinates.append(np.asarray(image)))
        forward = tta.mirrored(self.partial(params, state, others), self.mirror)
        return sliding_window(forward, np.asarray(image, np.float32)[None], **self._options)[0]


def labels_of(logits: Array, *, order: Sequence[int] = (), threshold: float = 0.5) -> np.ndarray:
    """uint8 labels [*S] of logits [*S, K].

    Args:
      order: the class that each region writes (`metrics.regions.class_order`), for region heads; () for classes.
      threshold: of the foreground's probability, for one class, and of each region's.
    """
    logits = np.asarray(logits)
    cut = float(np.log(threshold / (1 - threshold)))
    if order:
        return labels_from_regions(logits, order, cut)
    if logits.shape[-1] == 1:
        return (logits[..., 0] >= cut).astype(np.uint8)
    if logits.shape[-1] == 2:
        return (logits[..., 1] - logits[..., 0] > cut).astype(np.uint8)
    labels = np.empty(logits.shape[:-1], np.uint8)
    for plane, scores in zip(labels, logits):  # one plane's indices at a time: they have 8 bytes
        plane[...] = scores.argmax(-1)
    return labels


def probabilities_of(logits: Array, *, regions: bool = False) -> np.ndarray:
    """float32 [*S, K'] over what is looked for: the regions, the one class, or the foreground classes of a softmax."""
    logits = jnp.asarray(logits)
    if regions or logits.shape[-1] == 1:
        return np.asarray(jax.nn.sigmoid(logits))
    return np.asarray(jax.nn.softmax(logits, -1)[..., 1:])
