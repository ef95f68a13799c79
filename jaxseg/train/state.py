"""The state of a training run: one dictionary of arrays, everything that the next step depends on."""

import jax
import jax.numpy as jnp

from jaxseg.optim import average
from jaxseg.types import Array

TrainState = dict[str, Array | dict]


BALANCE = "loss_weight."  # before the names of learnable loss weights, where they stand among the parameters


def joined(params: dict, balance: dict) -> dict:
    """All that is trained, under one set of names: the optimiser sees this."""
    return params | {BALANCE + name: value for name, value in balance.items()}


def parted(trained: dict) -> tuple[dict, dict]:
    """The inverse of `joined`: (params, balance)."""
    return ({n: v for n, v in trained.items() if not n.startswith(BALANCE)},
            {n.removeprefix(BALANCE): v for n, v in trained.items() if n.startswith(BALANCE)})


def create(params: dict, state: dict, optimizer, *, ema: bool, balance: dict[str, float] | None = None) -> TrainState:
    """A fresh state.

    Keys: "step" (updates done), "params", "balance" (learnable loss weights by term, empty when unused), "state" (BatchNorm
    statistics, buffers), "opt", "ema" (empty when unused), "lr_scale" (moved by the plateau schedule), "bad_steps"
    (non-finite steps in a row), "skipped" (in all).
    """
    balance = {name: jnp.float32(value) for name, value in (balance or {}).items()}
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": {name: jnp.array(value, copy=True) for name, value in params.items()},  # the step donates its state
        "state": {name: jnp.array(value, copy=True) for name, value in state.items()},
        "balance": balance,
        "opt": optimizer.init(joined(params, balance)),
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
