"""The state of a training run: one dictionary with all arrays that the next step depends on."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from jaxseg.checkpoint.leaves import named
from jaxseg.models.functional import Network
from jaxseg.optim import average
from jaxseg.optim.build import Optimizer
from jaxseg.optim.joined import Layout, Starts, plan
from jaxseg.train import mesh as meshes
from jaxseg.types import Array

TrainState = dict[str, Array | dict]

SHARED = ("params", "ema", "opt")  # keys of a state whose arrays the devices may share

BALANCE = "loss_weight."  # before the names of learnable loss weights, where they stand among the parameters


def joined(params: dict, balance: dict) -> dict:
    """Return all trained arrays under one set of names, as the optimiser sees them."""
    return params | {BALANCE + name: value for name, value in balance.items()}


def parted(trained: dict) -> tuple[dict, dict]:
    """Invert `joined`: return (params, balance)."""
    return (
        {n: v for n, v in trained.items() if not n.startswith(BALANCE)},
        {n.removeprefix(BALANCE): v for n, v in trained.items() if n.startswith(BALANCE)},
    )


def create(params: dict, state: dict, optimizer, *, ema: bool, balance: dict[str, float] | None = None) -> TrainState:
    """Create a fresh state of numpy arrays, so that nothing is compiled for their many shapes (`place` copies it to the devices).

    Keys: "step" (number of updates), "params", "balance" (learnable loss weights by term, empty if unused), "state" (BatchNorm
    statistics, buffers), "opt", "ema" (empty if unused), "lr_scale" (changed by the plateau schedule), "bad_steps"
    (non-finite steps in a row), "skipped" (non-finite steps in all).
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
    """The form in which the step stores a state: the same keys, but small arrays of a kind are one vector (`optim.joined`).

    Checkpoints, validation and all other readers get the state in its usual form, with one array for each parameter.

    Attributes:
      trained: layout of the parameters, their moving average and the optimiser's state.
      buffers: layout of the network's own state.
      shared: the devices that share the arrays of SHARED; None: each holds all of them.
    """

    trained: Layout = Layout()
    buffers: Layout = Layout()
    shared: Mesh | None = None

    def join(self, state: TrainState) -> TrainState:
        """Convert a state to the form that the step takes and returns."""
        return self._changed(state, Layout.join)

    def part(self, state: TrainState) -> TrainState:
        """Invert `join`."""
        return self._changed(state, Layout.part)

    def place(self, state: TrainState, mesh: Mesh) -> TrainState:
        """Join a state and put it on the devices; every process must hold the same values."""
        return {
            key: jax.tree.map(lambda a, key=key: jax.device_put(a, self._place(key, a, mesh)), v)
            for key, v in self.join(state).items()
        }

    def shapes(self, state: TrainState, mesh: Mesh) -> TrainState:
        """Return the shapes and places of what `place` returns, without placing anything."""
        shape = lambda key, a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=self._place(key, a, mesh))
        return {key: jax.tree.map(functools.partial(shape, key), v) for key, v in self.join(state).items()}

    def held(self, tree):
        """Lay out arrays of SHARED, in a jitted function, as the devices hold them between two steps."""
        if self.shared is None:
            return tree
        return jax.tree.map(lambda a: lax.with_sharding_constraint(a, meshes.shared(a.shape, self.shared)), tree)

    def between_steps(self, state: TrainState) -> TrainState:
        """Lay out a state, in a jitted function, as the devices hold it between two steps."""
        return {key: self.held(value) if key in SHARED else self.whole(value) for key, value in state.items()}

    def whole(self, tree):
        """Gather arrays, in a jitted function, so that every device has them whole while it computes with them."""
        return tree if self.shared is None else lax.with_sharding_constraint(tree, meshes.replicated(self.shared))

    def starts(self, mesh: Mesh) -> tuple[Starts, Starts]:
        """Where small parameters and buffers lie, as arguments of a step on one CPU; empty elsewhere (see `Layout.part`)."""
        return (self.trained.starts(), self.buffers.starts()) if meshes.one_cpu(mesh) else ({}, {})

    def describe(self, state: TrainState) -> str:
        """Say how the devices share a state, before it is placed; "" where each holds all of it."""
        if self.shared is None:
            return ""
        count, joined = self.shared.devices.size, self.join(state)
        if count == 1:
            return "config.mesh.shard_state: there is one device, which holds the whole state"
        leaves = [(name, leaf) for key in SHARED for name, leaf in named({key: joined[key]})[0].items()]
        alone = [(name, leaf) for name, leaf in leaves if self._place("params", leaf, self.shared).is_fully_replicated]
        total, rest = (sum(np.size(leaf) * 4 / 2**20 for _, leaf in group) for group in (leaves, alone))
        text = f"state shared by {count} devices: {rest + (total - rest) / count:.1f} of {total:.1f} MiB on each"
        if not alone:
            return text
        more = f", {len(alone) - 8} more" if len(alone) > 8 else ""
        return f"{text}; whole on each, as {count} divides none of their axes: {', '.join(name for name, _ in alone[:8])}{more}"

    def _place(self, key: str, array, mesh: Mesh) -> NamedSharding:
        return meshes.shared(np.shape(array), mesh) if self.shared is not None and key in SHARED else meshes.replicated(mesh)

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


def storage(network: Network, optimizer: Optimizer, shared: Mesh | None = None) -> Storage:
    """Return the storage of `step.build(network, ..., optimizer, ...)`."""
    return Storage(optimizer.layout, plan(network.shapes()[1]), shared)


def evaluated(state: TrainState) -> dict:
    """Return the weights to evaluate and export: the moving average if there is one."""
    return state["ema"] or state["params"]


def place(state: TrainState, sharding) -> TrainState:
    """Copy the state to the mesh, replicated; every process must hold the same values."""
    return jax.tree.map(lambda a: jax.device_put(a, sharding), state)
