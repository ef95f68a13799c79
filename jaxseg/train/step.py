"""One training step: augment, forward, loss, gradient, guarded update; a pure function, jitted once, sharded over the mesh."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxseg.losses import compose as losses
from jaxseg.models import remat
from jaxseg.models.functional import ForwardContext, Network
from jaxseg.ops import devices
from jaxseg.ops.barrier import cpu_barrier
from jaxseg.ops.image import to_float
from jaxseg.optim import average
from jaxseg.optim.build import Optimizer
from jaxseg.programs.program import Program
from jaxseg.train import mesh as meshes
from jaxseg.train.state import TrainState, joined, parted, place, storage
from jaxseg.types import Array, Batch, ConfigError


def build(
    network: Network,
    loss: Callable,
    optimizer: Optimizer,
    schedule: Callable,
    augment: Callable,
    mesh,
    *,
    lr: float,
    dtype: str = "float32",
    accumulate: int = 1,
    ema: float = 0.0,
    seed: int = 0,
    finish: Callable = lambda image: image,
    target: Callable = lambda mask: mask,
    auxiliary: bool = False,
    shard_state: bool = False,
    recomputed: tuple[str, ...] = (),
) -> Program:
    """Build the jitted step (state, batch) -> (state, metrics), the same program for every seed, learning rate and schedule.

    A non-finite loss or gradient skips the whole update (parameters, optimiser, statistics, average) on all devices;
    "bad_steps" counts such steps in a row. The random keys of a step are fold_in(key(seed), step).

    The state has the form of `state.storage(network, optimizer)`, so that one update serves all small parameters.

    Args:
      network: from `functional.split`.
      loss: `losses.compose.build(...)`.
      optimizer: from `optim.build`: its updates are for a learning rate of 1, and its state does not change where `ok` is false.
      schedule: step -> factor of `lr`.
      augment: (key, image, mask) -> (image, mask).
      mesh: from `train.mesh.make`.
      lr: peak learning rate.
      dtype: compute dtype of the network.
      accumulate: number of micro-batches per update; the batch holds them one after another.
      ema: decay of the moving average; 0: none.
      seed: random seed of augmentation and stochastic layers.
      finish: converts the augmented image to the network's input (mean and standard deviation).
      target: converts class labels [B, *S] to the loss's target (regions).
      auxiliary: the loss has weights for auxiliary outputs; the first step then refuses a network without any (ConfigError),
        before it is compiled.
      recomputed: names of the layers whose activations are computed again for the gradient (`models.remat.chosen`).
      shard_state: the devices share parameters, average and optimiser state. A step gathers the parameters, and each device gets
        the sum of its part of the gradients.
    """
    stored = storage(network, optimizer, mesh if shard_state else None)

    def loss_of(trained, state, batch, key):
        params, balance = trained
        context = ForwardContext(train=True, key=key)
        outputs, new_state = remat.apply(network, params, state, finish(batch["image"]).astype(dtype), context, recomputed)
        if auxiliary and not outputs.aux:
            raise ConfigError("config.loss.aux_weights are for auxiliary outputs, but this network has none; set it to ()")
        truth = batch["target"] if "target" in batch else target(batch["mask"])
        total, weight, parts = loss(outputs, {**batch, "mask": truth})
        value = losses.learnable(parts, balance) if balance else total / weight
        return value, (new_state, {name: losses.mean(part) for name, part in parts.items()})

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def micro(trained, state, batch, key, starts):
        augment_key, run_key = jax.random.split(key)
        image, mask = augment(augment_key, to_float(batch["image"]), batch["mask"].astype(jnp.int32))
        if (
            meshes.shares(mesh) < mesh.devices.size
        ):  # transforms move rows: devices that share an image make all of it, then take their rows
            image, mask = lax.with_sharding_constraint((image, mask), meshes.batched(mesh))
        batch = {**batch, "image": image, "mask": mask}
        (value, (state, parts)), grads = gradient(trained, stored.buffers.part(state, starts), batch, run_key)
        return (value, (stored.buffers.join(state), parts)), (stored.held(stored.trained.join(stored.whole(grads[0]))), grads[1])

    def accumulated(trained, state, batch, key, starts):
        if accumulate == 1:
            (value, (state, parts)), grads = micro(trained, state, batch, key, starts)
            return value, state, parts, grads
        # every micro-batch over all devices: the images of the whole batch move once, else each device computes all of them
        share = lambda a: lax.with_sharding_constraint(a, meshes.batched(mesh, axis=1))
        split = jax.tree.map(lambda a: share(a.reshape(accumulate, a.shape[0] // accumulate, *a.shape[1:])), dict(batch))

        def body(carry, item):
            state, sums = carry
            (value, (state, parts)), grads = micro(trained, state, item[0], item[1], starts)
            return (state, jax.tree.map(jnp.add, sums, (value, parts, grads))), None

        keys = jax.random.split(key, accumulate)
        shapes = jax.eval_shape(micro, trained, state, jax.tree.map(lambda a: a[0], split), key, starts)
        zero = lambda tree: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)
        start = (zero(shapes[0][0]), zero(shapes[0][1][1]), zero(shapes[1]))
        (state, sums), _ = lax.scan(body, (state, start), (split, keys))
        value, parts, grads = jax.tree.map(lambda a: a / accumulate, sums)
        return value, state, parts, grads

    def step(state: TrainState, batch: Batch, drawn: Array, starts: tuple, rate: Array) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.wrap_key_data(drawn), state["step"])
        params = stored.whole(stored.trained.part(stored.whole(state["params"]), starts[0]))
        value, net_state, parts, grads = accumulated((params, state["balance"]), state["state"], batch, key, starts[1])
        grads = cpu_barrier(grads)  # else what lays a gradient out is computed anew by each reader
        norm = optax.tree.norm(grads)
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        trained = joined(state["params"], state["balance"])
        updates, opt = optimizer.update(joined(*grads), state["opt"], trained, ok=ok)
        params, balance = parted(jax.tree.map(lambda p, u: p + rate * u, trained, updates))
        mean = average.update(state["ema"], params, state["step"], ema) if ema else state["ema"]
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
        new = {
            "step": state["step"] + 1,
            "params": keep(params, state["params"]),
            "balance": keep(balance, state["balance"]),
            "state": keep(net_state, state["state"]),
            "opt": opt,
            "ema": keep(mean, state["ema"]),
            "lr_scale": state["lr_scale"],
            "bad_steps": jnp.where(ok, 0, state["bad_steps"] + 1),
            "skipped": state["skipped"] + jnp.where(ok, 0, 1),
        }
        metrics = {
            "loss": value,
            "lr": rate,
            "grad_norm": norm,
            "bad_steps": new["bad_steps"],
            "skipped": new["skipped"],
            **{f"loss/{name}": part for name, part in parts.items()},
            **{f"loss_weight/{name}": losses.factor(x) for name, x in new["balance"].items()},
        }
        return stored.between_steps(new), metrics

    everywhere = meshes.replicated(mesh)
    jitted = jax.jit(
        devices.over(mesh, step),
        in_shardings=(None if shard_state else everywhere, meshes.batched(mesh), everywhere, everywhere, everywhere),
        out_shardings=(None if shard_state else everywhere, everywhere),
        donate_argnums=0,
    )
    rate = jax.jit(lambda count, scale: (np.float32(lr) * schedule(count) * scale,), out_shardings=everywhere)
    own = place((_key_data(seed), stored.starts(mesh)), everywhere)
    scheduled = lambda state, batch: rate(state["step"], state["lr_scale"])
    return Program(jitted, *own, derive=scheduled, place=everywhere if meshes.one_cpu(mesh) else None)


def _key_data(seed: int, *numbers: int) -> np.ndarray:
    return np.asarray(jax.random.key_data(functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed))))


def build_warm(
    network: Network,
    optimizer: Optimizer,
    augment: Callable,
    mesh,
    *,
    dtype: str = "float32",
    seed: int = 0,
    finish: Callable = lambda image: image,
    shard_state: bool = False,
) -> Program:
    """Build the jitted function (state, batch, number) -> state that updates BatchNorm's statistics and nothing else.

    Its random keys are fold_in(fold_in(key(seed), 2^32 - 1), number): no training step has that number.
    """
    stored = storage(network, optimizer, mesh if shard_state else None)

    def warm(state: TrainState, batch: Batch, number, drawn: Array, starts: tuple) -> TrainState:
        augment_key, run_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(drawn), number))
        image, _ = augment(augment_key, to_float(batch["image"]), batch["mask"].astype(jnp.int32))
        params = stored.whole(stored.trained.part(stored.whole(state["params"]), starts[0]))
        net_state = stored.buffers.part(state["state"], starts[1])
        _, new = network.apply(params, net_state, finish(image).astype(dtype), ForwardContext(train=True, key=run_key))
        return stored.between_steps({**state, "state": stored.buffers.join(new)})

    everywhere = meshes.replicated(mesh)
    jitted = jax.jit(
        devices.over(mesh, warm),
        in_shardings=(None if shard_state else everywhere, meshes.batched(mesh), None, everywhere, everywhere),
        out_shardings=None if shard_state else everywhere,
        donate_argnums=0,
    )
    return Program(jitted, *place((_key_data(seed, 2**32 - 1), stored.starts(mesh)), everywhere))
