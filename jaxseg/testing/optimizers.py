"""check_optimizer and check_schedule: the contract of `optim/`, on a factory of your own."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.optim import build as optimizers
from jaxseg.optim import schedules
from jaxseg.testing.expectation import part_of


def check_optimizer(
    factory: str | Callable, *, lr: float = 0.05, steps: int = 60, options: Mapping[str, Any] | None = None
) -> None:
    """Check the properties of an optimiser on which the training step relies.

    It takes a learning rate, and needs only gradients and parameters; its updates are proportional to the rate (both are also
    checked when a config names it); a step with a non-finite gradient does not change its state; it descends a quadratic
    function; a step does not change the names, shapes and dtypes of its state, so that checkpoints can store it.

    Args:
      factory: your function (learning_rate, **options) -> optax.GradientTransformation, its path "module:name", or one of
        `jaxseg.optim.build.OPTIMIZERS`.
      lr: learning rate.
      steps: number of steps, after which the function must be less than half of its initial value.
      options: its other arguments.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(factory, "optimiser", optimizers.OPTIMIZERS)
    random = np.random.default_rng(0)
    params = {name: random.normal(size=shape).astype(np.float32) for name, shape in (("a.weight", (3, 4)), ("b.bias", (4,)))}
    optimizer = part.attempt("building it", optimizers.build, params, name=factory, options=dict(options or {}))
    height = lambda params: sum(jnp.sum(p * p) for p in params.values())

    @jax.jit
    def step(params, state, ok):
        updates, state = optimizer.update(jax.grad(height)(params), state, params, ok=ok)
        return {name: p + lr * updates[name] for name, p in params.items()}, state

    fresh = part.attempt("its init", optimizer.init, params)
    values, kept = part.attempt("a step", step, params, fresh, False)
    shapes = lambda tree: jax.tree.map(lambda a: (np.shape(a), str(jnp.result_type(a))), tree)
    part.expect(shapes(kept) == shapes(fresh), "a state of the same arrays after a step", "others", "init and update")
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), fresh, kept)
    part.expect(all(jax.tree.leaves(same)), "the state of a skipped step to stay as it is", "a changed one", "update's state")
    values, state = params, fresh
    for _ in range(steps):
        values, state = step(values, state, True)
    first, last = float(height(params)), float(height(values))
    part.expect(
        math.isfinite(last) and last < first / 2,
        f"a bowl descended to less than half of its height in {steps} steps of rate {lr:g}",
        f"{first:.4g} -> {last:.4g}",
        "the sign of the updates (optax's are added), or give another lr",
    )


def check_schedule(
    factory: str | Callable, *, total_steps: int = 40, steps_per_epoch: int = 10, options: Mapping[str, Any] | None = None
) -> None:
    """Check the property of a schedule on which training relies: a finite factor >= 0 at every step, with and without jit.

    Args:
      factory: your function (**options) -> (step -> factor of config.optim.lr), its path "module:name", or one of
        `jaxseg.optim.schedules.SCHEDULES`. Required arguments that `options` lacks are filled in, see `schedules.build`.
      total_steps, steps_per_epoch: number of steps of the run and of an epoch.
      options: its arguments.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(factory, "schedule", schedules.SCHEDULES)
    schedule = part.attempt(
        "building it",
        schedules.build,
        name=factory,
        options=dict(options or {}),
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    count = np.arange(total_steps, dtype=np.int32)
    traced = np.asarray(part.attempt("jit", jax.jit(jax.vmap(schedule)), count))
    eager = np.array([float(schedule(jnp.int32(n))) for n in (0, total_steps // 2, total_steps - 1)])
    wrong = np.flatnonzero(~(np.isfinite(traced) & (traced >= 0)))
    part.expect(not wrong.size, "a finite factor from 0 on", f"{traced[wrong[:1]]} at step {wrong[:1]}")
    part.close(traced[[0, total_steps // 2, -1]], eager, 1e-5, "the same factors with and without jit")
    part.expect(bool(traced.max() > 0), "a factor above 0 at some step", "0 at all of them")
