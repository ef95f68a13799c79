"""Seg-Grad-CAM: the parts of an image that led a network to predict a region (Vinogradova et al. 2020, arXiv 2002.11434).

For the logit y^c of a class and a set M of voxels, such as all that were predicted to be of it,

    alpha_k = mean over space of d (sum over m in M of y^c_m) / d A_k        L = ReLU(sum over k of alpha_k A_k)

where A_k are the channels of a layer's output. L is resized to the input and divided by its maximum. The gradient is taken with
respect to zeros that are added to the layer's output (`layers.context.Tap`), so that any layer of any network can be looked at.

Differs from the BraTS 3-D project's map, which sums the logit over all voxels and not over a region, chooses nearly always the
background, and does not resize.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models.functional import ForwardContext, Network, Tap, layers_of
from jaxseg.ops.resize.api import resize
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import lookup


class Heat(NamedTuple):
    """A map of one class.

    Attributes:
      map: float32 [*S] in 0..1, at the input's size; all 0 if no channel supports the class.
      region: bool [*S], the voxels M.
      inside: the pointing score: the fraction of the map's sum inside the region; NaN if the map is 0.
    """

    map: np.ndarray
    region: np.ndarray
    inside: float


def outputs_of(network: Network, params: Mapping, state: Mapping, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """{name of a layer: shape of its output} in the order in which they are computed; of layers with one array as output.

    Args:
      network, params, state: from `functional.split`; values may be shapes.
      shape: [B, *S, C] of the image.
    """
    names = layers_of(jax.eval_shape(network.merge, dict(params), dict(state)))
    order: dict[str, tuple[int, ...]] = {}

    class Noting(Tap):
        """Records that its layer has finished."""

        def __setattr__(self, what, value):
            if what == "output" and hasattr(value, "shape"):
                order.pop(self.name, None)  # of several calls the last one counts
                order[self.name] = tuple(value.shape)
            object.__setattr__(self, what, value)

    taps = {}
    for name in names:
        taps[name] = Noting()
        object.__setattr__(taps[name], "name", name)
    jax.eval_shape(
        lambda p, s, x: network.apply(p, s, x, ForwardContext(taps=taps))[0].logits,
        dict(params),
        dict(state),
        jax.ShapeDtypeStruct(tuple(shape), jnp.float32),
    )
    return order


def chosen_layer(outputs: Mapping[str, tuple[int, ...]], rank: int, name: str = "") -> str:
    """Return the layer to explain: the named one, or the last with the smallest output of more than one position and channel.

    Raises:
      ConfigError: there is no such layer, or its output has no spatial axes.
    """
    maps = {key: shape for key, shape in outputs.items() if len(shape) == rank + 2 and np.prod(shape[1:-1]) > 1}
    if name:
        shape = lookup("layer of the network (config.explain.layer)", name, outputs)
        if name not in maps:
            raise ConfigError(
                f"config.explain.layer={name!r}: its output has the shape {shape}, but a map needs [B, {'space, ' * rank}C]; "
                f"name another layer, such as {next(iter(maps), '')!r}"
            )
        return name
    if not maps:
        raise ConfigError(f"config.explain.layer: no layer has an output of shape [B, {'space, ' * rank}C]; a map needs one")
    wide = {key: shape for key, shape in maps.items() if shape[-1] > 1} or maps  # a gate has a single channel
    fewest = min(np.prod(shape[1:-1]) for shape in wide.values())
    return [key for key, shape in wide.items() if np.prod(shape[1:-1]) == fewest][-1]


def heat(network: Network, params: Mapping, state: Mapping, image: Array, layer: str, channel: int, region: np.ndarray) -> Heat:
    """Compute the map of one logit over a region.

    Args:
      network, params, state: from `functional.split`.
      image: float32 [1, *S, C], standardised.
      layer: dotted name of the layer.
      channel: index of the logit.
      region: bool [*S], the voxels whose logits are summed.
    """
    found = np.asarray(_heat(network, layer, dict(params), dict(state), image, channel, jnp.asarray(region)))
    total = float(found.sum())
    return Heat(found, np.asarray(region), float(found[region].sum() / total) if total > 0 else float("nan"))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _heat(network: Network, layer: str, params: dict, state: dict, image: Array, channel: Array, region: Array) -> Array:
    def score(added):
        tap = Tap(added)
        logits = network.apply(params, state, image, ForwardContext(taps={layer: tap}))[0].logits
        return jnp.sum(jnp.where(region, jnp.take(logits[0], channel, -1), 0)), tap.output.astype(jnp.float32)

    shape = jax.eval_shape(lambda: _output(network, layer, params, state, image))
    slopes, output = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, jnp.float32))
    alpha = slopes.mean(tuple(range(1, slopes.ndim - 1)), keepdims=True)
    small = jax.nn.relu(jnp.sum(alpha * output, -1, keepdims=True))
    whole = resize(small, image.shape[1:-1])[0, ..., 0]
    return whole / jnp.maximum(whole.max(), 1e-30)


def _output(network: Network, layer: str, params: dict, state: dict, image: Array) -> Array:
    tap = Tap()
    network.apply(params, state, image, ForwardContext(taps={layer: tap}))
    return tap.output
