"""Exponential moving average of the parameters, kept in float32 beside them: average += (1 - d) (param - average)."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxseg.types import Array


def init(params: Mapping[str, Array]) -> dict[str, Array]:
    """The average before the first update: a float32 copy of the parameters."""
    return {name: np.array(p, np.float32) for name, p in params.items()}


def decay_at(step: Array, decay: float, *, warmup: bool = False) -> Array:
    """The decay d at update number `step` (from 0): `decay`, or with warm-up min(decay, (1 + step) / (10 + step)).

    With warm-up the first updates quickly replace the initial values: d = 0.1, 0.18, 0.25, ... until `decay` is reached.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step)) if warmup else jnp.asarray(decay, jnp.float32)


def update(
    average: Mapping[str, Array], params: Mapping[str, Array], step: Array, decay: float, *, warmup: bool = False
) -> dict[str, Array]:
    """The average after one more update of the parameters."""
    rate = 1 - decay_at(step, decay, warmup=warmup)
    return {name: a + rate * (params[name].astype(jnp.float32) - a) for name, a in average.items()}
