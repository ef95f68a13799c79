"""Learning-rate schedules, as a fraction of the peak learning rate: functions of the step, and ReduceLROnPlateau on the host.

Let t be the step (or, with per_epoch, the first step of the epoch) divided by the period, clipped to 0..1:
  constant  1
  poly      final + (1 - final) (1 - t)^power              torch PolynomialLR; nnU-Net: power 0.9, per_epoch
  cosine    final + (1 - final) (1 + cos(pi t)) / 2        torch CosineAnnealingLR; stepped per epoch there: per_epoch
  step      factor^(number of milestones passed)           torch StepLR, MultiStepLR
During warm-up (step < warmup) this is multiplied by 1 - (1 - step / warmup) (1 - warmup_ratio), as in mmcv: the schedule itself
also starts at step 0. After the period the value stays constant (torch's cosine would rise again).

A schedule may also be the path of a function that returns one, optax's or your own: "optax:exponential_decay".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.optim import adapter
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import lookup, unknown_name


def _positive(what: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"schedule option {what}={value!r}: must be a number above 0")


def _fraction(what: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"schedule option {what}={value!r}: must lie in 0..1 (it is a fraction of the peak learning rate)")


def _progress(total_steps: int, steps_per_epoch: int, period, per_epoch: bool) -> Callable[[Array], Array]:
    if period is not None:
        _positive("period", period)
    if not isinstance(per_epoch, bool):
        raise ConfigError(f"schedule option per_epoch={per_epoch!r}: must be True or False")
    length = total_steps if period is None else period * steps_per_epoch

    def progress(step: Array) -> Array:
        begun = step // steps_per_epoch * steps_per_epoch if per_epoch else step
        return jnp.clip(jnp.asarray(begun, jnp.float32) / length, 0.0, 1.0)

    return progress


def _constant(total_steps: int, steps_per_epoch: int):
    return lambda step: jnp.ones((), jnp.float32)


def _poly(
    total_steps: int,
    steps_per_epoch: int,
    *,
    power: float = 1.0,
    final: float = 0.0,
    period: float | None = None,
    per_epoch: bool = False,
):
    _positive("power", power)
    _fraction("final", final)
    t = _progress(total_steps, steps_per_epoch, period, per_epoch)
    return lambda step: final + (1 - final) * (1 - t(step)) ** power


def _cosine(total_steps: int, steps_per_epoch: int, *, final: float = 0.0, period: float | None = None, per_epoch: bool = False):
    _fraction("final", final)
    t = _progress(total_steps, steps_per_epoch, period, per_epoch)
    return lambda step: final + (1 - final) * (1 + jnp.cos(math.pi * t(step))) / 2


def _step(
    total_steps: int,
    steps_per_epoch: int,
    *,
    every: float | None = None,
    milestones: Sequence[float] | None = None,
    factor: float = 0.1,
):
    if (every is None) == (milestones is None):
        raise ConfigError(f"schedule 'step' with every={every!r}, milestones={milestones!r}: give exactly one of them, in epochs")
    _fraction("factor", factor)
    if every is None:
        if not isinstance(milestones, (tuple, list)):
            raise ConfigError(f"schedule option milestones={milestones!r}: must be a list of epochs")
        for milestone in milestones:
            _positive("milestones", milestone)
        marks = np.asarray([round(m * steps_per_epoch) for m in milestones], np.int32)
        return lambda step: jnp.float32(factor) ** (jnp.asarray(step) >= marks).sum()
    _positive("every", every)
    length = max(1, round(every * steps_per_epoch))
    return lambda step: jnp.float32(factor) ** (jnp.asarray(step) // length)


SCHEDULES: dict[str, Callable] = {"constant": _constant, "poly": _poly, "cosine": _cosine, "step": _step}


def _by_path(
    path: str | Callable, options: Mapping[str, Any], total_steps: int, steps_per_epoch: int
) -> Callable[[Array], Array]:
    """A schedule from a factory. Required arguments that the options lack are filled in with this run's values."""
    make, takes = adapter.factory(path, "schedule")
    own = {
        "total_steps": total_steps,
        "decay_steps": total_steps,
        "transition_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
        "init_value": 0.0 if "peak_value" in takes else 1.0,  # a schedule with a peak warms up
        "peak_value": 1.0,
        "value": 1.0,
    }
    needed = {name: own[name] for name, p in takes.items() if p.default is p.empty and name in own}
    schedule = adapter.call(make, path, "schedule", takes, {**needed, **options}, {})
    try:
        shape = jax.eval_shape(lambda step: jnp.asarray(schedule(step), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)).shape
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        text = str(error).strip().splitlines()[0]
        raise ConfigError(f"schedule {path!r} must return a function of the step that jax can trace: {text}") from error
    if shape:
        raise ConfigError(f"schedule {path!r} returns an array of shape {shape} for a step; it must return a number")
    return schedule


def build(
    *,
    name: str | Callable,
    warmup: int = 0,
    warmup_ratio: float = 1e-6,
    options: Mapping[str, Any] | None = None,
    total_steps: int,
    steps_per_epoch: int,
) -> Callable[[Array], Array]:
    """Build a schedule: a function step -> float32 fraction of the peak learning rate, which works inside jax.jit.

    Args:
      name: one of SCHEDULES, or a function (or its path "module:name") that returns a function step -> fraction. Required
        arguments that `options` lacks are filled in: total_steps, decay_steps and transition_steps by the run's number of
        steps, steps_per_epoch by that of an epoch, peak_value and value by 1, init_value by 1 or, beside a peak_value, by 0.
      warmup: number of linear warm-up steps.
      warmup_ratio: fraction at step 0 of the warm-up.
      options: poly: power, final, period, per_epoch; cosine: final, period, per_epoch; step: every or milestones, factor.
        period (default: the whole run), `every` and milestones are in epochs. For a function: its arguments, in their own units
        (optax uses steps).
      total_steps, steps_per_epoch: number of steps of the run and of an epoch.
    Raises:
      ConfigError: an unknown name or option, or a value outside its range.
    """
    options, path = dict(options or {}), callable(name) or isinstance(name, str) and ":" in name
    if not path:
        make = lookup("schedule", name, SCHEDULES)
        known = set(make.__kwdefaults__ or {})
        for option in options:
            if option not in known:
                raise unknown_name(f"option of schedule {name!r}", option, known)
    if total_steps < 1 or steps_per_epoch < 1:
        raise ConfigError(f"schedule over total_steps={total_steps}, steps_per_epoch={steps_per_epoch}: both must be at least 1")
    if total_steps >= 2**31:
        raise ConfigError(f"schedule over total_steps={total_steps}: must fit into 32 bits; lower train.epochs")
    if not 0 <= warmup < total_steps:
        raise ConfigError(
            f"warmup={warmup} steps in a run of {total_steps} steps: the warm-up must be shorter than the run; lower "
            "schedule.warmup or raise train.epochs"
        )
    _fraction("warmup_ratio", warmup_ratio)
    main = _by_path(name, options, total_steps, steps_per_epoch) if path else make(total_steps, steps_per_epoch, **options)

    def schedule(step: Array) -> Array:
        factor = jnp.asarray(main(step), jnp.float32)
        if warmup:
            done = jnp.minimum(jnp.asarray(step, jnp.float32) / warmup, 1.0)
            factor = factor * (1 - (1 - done) * (1 - warmup_ratio))
        return factor

    return schedule


class Plateau:
    """Lower the learning rate when a metric stops improving: torch's ReduceLROnPlateau, on the host, with a JSON-able state.

    Args:
      lr: peak learning rate (min_lr and eps are absolute, as in PyTorch).
      mode: "min" if smaller values are better, "max" if larger ones are.
      factor: the learning rate is multiplied by this at each reduction.
      patience: number of updates without improvement that are tolerated; the next one lowers the rate.
      threshold: the smallest change that counts as an improvement.
      threshold_mode: "rel": the threshold is relative to the best value; "abs": absolute.
      cooldown: number of updates after a reduction that are not counted.
      min_lr: lower bound of the learning rate.
      eps: reductions smaller than this are skipped.
    Raises:
      ConfigError: an unknown option, or a value outside its range.
    """

    def __init__(
        self,
        *,
        lr: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        **unknown,
    ):
        if unknown:
            raise unknown_name("option of schedule 'plateau'", next(iter(unknown)), Plateau.__init__.__kwdefaults__ or ())
        lookup("plateau mode", mode, {"min": 0, "max": 0})
        lookup("plateau threshold_mode", threshold_mode, {"rel": 0, "abs": 0})
        _positive("factor", factor)
        if factor >= 1:
            raise ConfigError(f"schedule option factor={factor!r}: must lie strictly between 0 and 1")
        numbers = {"patience": patience, "threshold": threshold, "cooldown": cooldown, "min_lr": min_lr, "eps": eps}
        for what, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"schedule option {what}={value!r}: must be a number of at least 0")
        self.mode, self.factor, self.patience, self.cooldown = mode, factor, patience, cooldown
        self.threshold, self.threshold_mode, self.min_lr, self.eps = threshold, threshold_mode, min_lr, eps
        self.lr, self.bad, self.resting = float(lr), 0, 0
        self.best: float | None = None

    def update(self, value: float) -> float:
        """Add one value of the metric; returns the factor for the learning rate (1.0: unchanged)."""
        if self._better(float(value)):
            self.best, self.bad = float(value), 0
        else:
            self.bad += 1
        if self.resting > 0:
            self.resting, self.bad = self.resting - 1, 0
        if self.bad <= self.patience:
            return 1.0
        self.resting, self.bad = self.cooldown, 0
        old, new = self.lr, max(self.lr * self.factor, self.min_lr)
        if old - new <= self.eps:
            return 1.0
        self.lr = new
        return new / old

    def _better(self, value: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.best is None:
            return sign * value > -math.inf
        margin = sign * self.threshold
        bound = self.best * (1.0 + margin) if self.threshold_mode == "rel" else self.best + margin
        return sign * value > sign * bound

    def state(self) -> dict[str, Any]:
        """The state for `load`, so that a resumed run lowers the learning rate at the same epochs."""
        return {"lr": self.lr, "best": self.best, "bad": self.bad, "resting": self.resting}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.lr, self.best, self.bad, self.resting = (state[k] for k in ("lr", "best", "bad", "resting"))
