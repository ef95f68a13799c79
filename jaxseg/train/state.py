"""The state of a training run: one dictionary of arrays, everything that the next step depends on."""

import jax
import jax.numpy as jnp

from jaxseg.optim import average
from jaxseg.types import Array

TrainState = dict[str, Array | dict]


def create(params: dict, state: dict, optimizer, *, ema: bool) -> TrainState:
    """A fresh state.

    Keys: "step" (updates done), "params", "state" (BatchNorm statistics, buffers), "opt", "ema" (empty when unused),
    "lr_scale" (moved by the plateau schedule), "bad_steps" (non-finite steps in a row), "skipped" (in all).
    """
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": {name: jnp.array(value, copy=True) for name, value in params.items()},  # the step donates its state
        "state": {name: jnp.array(value, copy=True) for name, value in state.items()},
        "opt": optimizer.init(params),
        "ema": average.init(params) if ema else {},
        "lr_scale": jnp.ones((), jnp.float32),
        "bad_steps": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
    }


def evaluated(state: TrainState) -> dict:
    """The weights that are scored and exported: the moving average where there is one."""
    return state["ema"] or state["params"]


def place(state: TrainState, sharding) -> TrainState:
    """The state on the mesh, replicated; every process must hold the same values."""
    return jax.tree.map(lambda a: jax.device_put(a, sharding), state)
