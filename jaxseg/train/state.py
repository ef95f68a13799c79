"""The state of a training run: one dictionary of arrays, everything that the next step depends on."""

from typing import NamedTuple

import jax
import numpy as np

from jaxseg.models.functional import Network
from jaxseg.optim import average
from jaxseg.optim.build import Optimizer
from jaxseg.optim.joined import Layout, plan
from jaxseg.types import Array

TrainState = dict[str, Array | dict]

BALANCE = "loss_weight."  # before the names of learnable loss weights, where they stand among the parameters


def joined(params: dict, balance: dict) -> dict:
    """All that is trained, under one set of names: the optimiser sees this."""
    return params | {BALANCE + name: value for name, value in balance.items()}


def parted(trained: dict) -> tuple[dict, dict]:
    """The inverse of `joined`: (params, balance)."""
    return (
        {n: v for n, v in trained.items() if not n.startswith(BALANCE)},
        {n.removeprefix(BALANCE): v for n, v in trained.items() if n.startswith(BALANCE)},
    )


def create(params: dict, state: dict, optimizer, *, ema: bool, balance: dict[str, float] | None = None) -> TrainState:
    """A fresh state, as numpy arrays: nothing is compiled for its many shapes (`place` brings it to the devices).

    Keys: "step" (updates done), "params", "balance" (learnable loss weights by term, empty when unused), "state" (BatchNorm
    statistics, buffers), "opt", "ema" (empty when unused), "lr_scale" (moved by the plateau schedule), "bad_steps"
    (non-finite steps in a row), "skipped" (in all).
    """
    balance = {name: np.float32(value) for name, value in (balance or {}).items()}
    copied = lambda tree: {name: np.array(value) for name, value in tree.items()}  # the step donates its state
    params = copied(params)
    return {
        "step": np.zeros((), np.int32),
        "params": params,
        "state": copied(state),
        "balance": balance,
        "opt": optimizer.init(joined(params, balance)),
        "ema": average.init(params) if ema else {},
        "lr_scale": np.ones((), np.float32),
        "bad_steps": np.zeros((), np.int32),
        "skipped": np.zeros((), np.int32),
    }


class Storage(NamedTuple):
    """How the step keeps a state: under the same keys, with the small arrays of a kind as one vector (`optim.joined`).

    Checkpoints, validation and every other reader see the state parted again, by the parameters' own names.

    Attributes:
      trained: of parameters, their moving average and what the optimiser keeps of them.
      buffers: of the network's own state.
    """

    trained: Layout = Layout()
    buffers: Layout = Layout()

    def join(self, state: TrainState) -> TrainState:
        """The state as the step takes it and gives it back."""
        return self._changed(state, Layout.join)

    def part(self, state: TrainState) -> TrainState:
        """The inverse of `join`."""
        return self._changed(state, Layout.part)

    def _changed(self, state: TrainState, change) -> TrainState:
        opt = state["opt"]
        if self.trained.vectors:
            opt = {key: change(self.trained, value) if isinstance(value, dict) else value for key, value in opt.items()}
        return {
            **state,
            "params": change(self.trained, state["params"]),
            "ema": change(self.trained, state["ema"]),
            "opt": opt,
            "state": change(self.buffers, state["state"]),
        }


def storage(network: Network, optimizer: Optimizer) -> Storage:
    """The storage of `step.build(network, ..., optimizer, ...)`."""
    return Storage(optimizer.layout, plan(network.shapes()[1]))


def evaluated(state: TrainState) -> dict:
    """The weights that are scored and exported: the moving average where there is one."""
    return state["ema"] or state["params"]


def place(state: TrainState, sharding) -> TrainState:
    """The state on the mesh, replicated; every process must hold the same values."""
    return jax.tree.map(lambda a: jax.device_put(a, sharding), state)
