"""A network as a program for CPUs, CUDA and TPUs: StableHLO by `jax.export`, its weights an argument.

The program holds no weights: as constants they would be written as text, twice their size, and once for each platform.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from jaxseg.models.functional import Network
from jaxseg.ops.gpu_probe import portable
from jaxseg.ops.image import standardise, to_float
from jaxseg.types import Array, ConfigError

PLATFORMS = ("cpu", "cuda", "tpu")


class Inputs(NamedTuple):
    """The inputs of the network.

    Attributes:
      size: spatial size of an image, or of a window.
      channels: number of channels, including coordinates.
      dtype: "uint8" for 0..255, else "float32".
      mean, std: one number per channel, see `records.Recipe`.
    """

    size: tuple[int, ...]
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def spec(self, batch) -> jax.ShapeDtypeStruct:
        """[batch, *size, channels]."""
        return jax.ShapeDtypeStruct((batch, *self.size, self.channels), self.dtype)


def forward(network: Network, inputs: Inputs) -> Callable[[Sequence[Array], Array], Array]:
    """Return the function (weights in the order of `network.names`, images) -> logits, computed in float32."""

    def run(weights: Sequence[Array], images: Array) -> Array:
        params, state = network.parted(weights)
        return network.apply(params, state, standardise(to_float(images), inputs.mean, inputs.std))[0].logits

    return run


def specs(network: Network) -> list[jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of the weights, in the order of `network.names`."""
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in network.leaves]


def serialised(network: Network, inputs: Inputs, batch: int) -> tuple[bytes, int | None]:
    """Return (the program, None) for any batch size, or (the program, `batch`) if the network's code depends on the batch size.

    Raises:
      ConfigError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401 -- jax.export writes with it
    except ImportError as error:
        raise ConfigError(
            "--mode=export needs flatbuffers: pip install 'flatbuffers', or jaxseg with the extra export"
        ) from error
    with portable(), _without_places():
        run = jax.jit(forward(network, inputs))
        export_for: Callable[[Any], export.Exported] = lambda n: export.export(run, platforms=PLATFORMS)(
            specs(network), inputs.spec(n)
        )
        try:
            return bytes(export_for(export.symbolic_shape("batch")[0]).serialize()), None
        except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, NotImplementedError):
            return bytes(export_for(batch).serialize()), batch


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Within the block, trace without source locations, which depend on this machine and on the caller."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def arrays_of(network: Network, weights: tuple[dict, dict]) -> list[np.ndarray]:
    """Return the arrays of (params, state) in the order of `network.names`."""
    everything = {**weights[0], **weights[1]}
    return [np.asarray(everything[name]) for name in network.names]
