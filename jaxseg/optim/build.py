"""Optimisers by name, with parameter groups, gradient clipping and a guard against non-finite gradients.

Updates are computed for a learning rate of 1 and are already negative: new = param + lr * update. The built-in optimisers follow
torch.optim (2.13): Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), Adagrad (Duchi et al. 2011), and SGD with
(Nesterov) momentum and without dampening. They are element-wise, so that many small arrays can be stored as one vector
(`Optimizer.layout`): the 446 arrays of SegNeXt-T become 48 arrays and one vector of the other 398. Any other optimiser can be
given by the path of its factory (`adapter`).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.ops.barrier import cpu_barrier
from jaxseg.optim import adapter
from jaxseg.optim import groups as grouping
from jaxseg.optim.groups import Groups, number
from jaxseg.optim.joined import Layout, plan
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import lookup, unknown_name


class Optimizer(NamedTuple):
    """The functions of an optimiser that a training step needs; `init` and `update` form an optax transformation.

    Attributes:
      init: function of params (a dict by name) that returns the initial state.
      update: (gradients, state, params, ok=None) -> (updates for a learning rate of 1, new state). Where the flag `ok` is
        false, the state is not changed. All dicts may have one entry per parameter, or all may be joined by `layout`.
      layout: the arrays of params, and of the state under the same names, that may be joined into vectors.
    """

    init: Callable
    update: Callable
    layout: Layout = Layout()


class UpdateRule(NamedTuple):
    """An element-wise optimiser: moments for each parameter, step direction, options, and kind of weight decay."""

    update_moments: Callable  # (gradient, moments, **options) -> new moments
    step_direction: Callable  # (gradient, new moments, scalars, **options) -> step before the learning rate
    moments: Callable  # (leaf, **options) -> {name: initial array}
    options: Mapping[str, float | bool]
    scalars: Callable = lambda count, **_: ()  # numbers shared by all parameters; count: number of updates, from 1
    decoupled: bool = False


def _one_minus_power(base: float, count: Array) -> Array:
    """1 - base^count without cancellation (1 - 0.999 in float32 has a relative error of 5e-5)."""
    return -jnp.expm1(count.astype(jnp.float32) * math.log(base)) if base > 0 else jnp.ones((), jnp.float32)


def _adam_scalars(count: Array, *, b1: float, b2: float, eps: float):
    return 1 / _one_minus_power(b1, count), 1 / jnp.sqrt(_one_minus_power(b2, count))


def _adam_moments(g: Array, moments: dict, *, b1: float, b2: float, eps: float) -> dict:
    return {"m": b1 * moments["m"] + (1 - b1) * g, "v": b2 * moments["v"] + (1 - b2) * g * g}


def _adam(g: Array, moments: dict, scalars, *, b1: float, b2: float, eps: float) -> Array:
    return moments["m"] * scalars[0] / (jnp.sqrt(moments["v"]) * scalars[1] + eps)


def _adagrad_moments(g: Array, moments: dict, *, eps: float, initial: float) -> dict:
    return {"sum": moments["sum"] + g * g}


def _adagrad(g: Array, moments: dict, scalars, *, eps: float, initial: float) -> Array:
    return g / (jnp.sqrt(moments["sum"]) + eps)


def _sgd_moments(g: Array, moments: dict, *, momentum: float, nesterov: bool) -> dict:
    return {"m": momentum * moments["m"] + g} if momentum else {}


def _sgd(g: Array, moments: dict, scalars, *, momentum: float, nesterov: bool) -> Array:
    if not momentum:
        return g
    return g + momentum * moments["m"] if nesterov else moments["m"]


def _zeros(leaf: Array) -> np.ndarray:
    return np.zeros(leaf.shape, np.float32)  # numpy: jax would compile a program for each shape


_ADAM = UpdateRule(
    _adam_moments, _adam, lambda p, **_: {"m": _zeros(p), "v": _zeros(p)}, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}, _adam_scalars
)
OPTIMIZERS: dict[str, UpdateRule] = {
    "adam": _ADAM,
    "adamw": _ADAM._replace(decoupled=True),
    "adagrad": UpdateRule(
        _adagrad_moments, _adagrad, lambda p, *, initial, **_: {"sum": _zeros(p) + initial}, {"eps": 1e-10, "initial": 0.0}
    ),
    "sgd": UpdateRule(
        _sgd_moments, _sgd, lambda p, *, momentum, **_: {"m": _zeros(p)} if momentum else {}, {"momentum": 0.0, "nesterov": False}
    ),
}


def build(
    params: Mapping[str, Array],
    *,
    name: str | Callable,
    options: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    groups: Groups = (),
    clip_norm: float = 0.0,
    multiple: int = 1,
) -> Optimizer:
    """Build the optimiser of these parameters; its updates are for a learning rate of 1.

    The state of a built-in optimiser is {"count": int32, "<moment>": {parameter name: float32 array}}. Weight decay is decoupled
    for adamw (the parameter shrinks by lr * decay); for the others it is added to the gradient after clipping, as in PyTorch.

    Args:
      params: arrays or shapes by dotted name.
      name: one of OPTIMIZERS, a factory, or the path of a factory: "optax:lion", "my_module:factory" (see `adapter.adapt`).
      options: adam, adamw: b1, b2, eps; adagrad: eps, initial (accumulator); sgd: momentum, nesterov; otherwise the factory's
        arguments.
      weight_decay: weight decay of every parameter, before its group's factor "decay".
      groups: ((regular expression, {"lr": factor, "decay": factor}), ...): a parameter belongs to the first group whose
        expression is found in its name; missing factors, and those of parameters without a group, are 1. An lr of 0 freezes.
      clip_norm: upper bound of the global gradient norm, to which all gradients are scaled; 0: off.
      multiple: joined vectors have a multiple of this length, so that this many devices can share them.
    Raises:
      ConfigError: an unknown optimiser, option or factor, a value outside its range, or a group without parameters.
    """
    for what, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        number(what, value)
    factors = grouping.factors(params, groups)
    if callable(name) or isinstance(name, str) and ":" in name:
        init, advance, layout = *adapter.adapt(params, name, options or {}, weight_decay, factors), Layout()
    else:
        rule = lookup("optimiser", name, OPTIMIZERS)
        settings, layout = _settings(name, rule, options or {}), plan(params, factors.__getitem__, multiple=multiple)
        of = factors | {vector: factors[members[0][0]] for vector, members in layout.vectors.items()}
        init, advance = _by_rule(rule, settings, weight_decay, of)
    inside = {name for members in layout.vectors.values() for name, _ in members}
    forms = (factors.keys(), factors.keys() - inside | layout.vectors.keys())

    def update(grads: Mapping[str, Array], state, params: Mapping[str, Array], *, ok=None):
        if grads.keys() not in forms:
            raise ValueError(
                f"got gradients of {len(grads)} parameters for an optimiser of {len(factors)}; their names must be the same"
            )
        return advance(clip(grads, clip_norm) if clip_norm else grads, state, params, ok)

    return Optimizer(init, update, layout)


def _by_rule(rule: UpdateRule, settings: Mapping, weight_decay: float, factors: Mapping[str, tuple[float, float]]):
    """(init, update) of a built-in optimiser; `factors` also has entries for joined vectors."""

    def init(params: Mapping[str, Array]) -> dict:
        state: dict = {"count": np.zeros((), np.int32)}
        for name, p in params.items():
            for moment, value in rule.moments(p, **settings).items():
                state.setdefault(moment, {})[name] = value
        return state

    def update(grads: Mapping[str, Array], state: dict, params: Mapping[str, Array], ok) -> tuple[dict, dict]:
        new: dict = {"count": state["count"] + 1, **{moment: {} for moment in state if moment != "count"}}
        scalars = rule.scalars(new["count"], **settings)
        updates = {}
        for name, g in grads.items():
            (lr, decay), p, g = factors[name], params[name], g.astype(jnp.float32)
            shrink = weight_decay * decay
            if shrink and not rule.decoupled:
                g = g + shrink * p
            moments = {moment: state[moment][name] for moment in state if moment != "count"}
            new_moments = rule.update_moments(g, moments, **settings)
            if ok is not None:
                new_moments = {moment: jnp.where(ok, value, moments[moment]) for moment, value in new_moments.items()}
            new_moments = cpu_barrier(new_moments)  # without it XLA computes them twice, and copies the old ones to do so
            direction = rule.step_direction(g, new_moments, scalars, **settings)
            if shrink and rule.decoupled:
                direction = direction + shrink * p
            updates[name] = -lr * direction
            for moment, value in new_moments.items():
                new[moment][name] = value
        if ok is not None:
            new["count"] = jnp.where(ok, new["count"], state["count"])
        return updates, new

    return init, update


def clip(grads, max_norm: float):
    """Clip the global gradient norm: all gradients times min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_."""
    factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + 1e-6))
    return jax.tree.map(lambda g: g * factor, grads)


def all_finite(tree) -> Array:
    """Whether all numbers in a tree of arrays are finite, as a boolean scalar on the device; True for an empty tree."""
    return jnp.all(jnp.stack([jnp.ones((), bool), *(jnp.isfinite(x).all() for x in jax.tree.leaves(tree))]))


def _settings(name: str, rule: UpdateRule, options: Mapping[str, float]) -> dict:
    for option in options:
        if option not in rule.options:
            raise unknown_name(f"option of optimiser {name!r}", option, rule.options)
    settings = {**rule.options, **options}
    for option, value in settings.items():
        if isinstance(rule.options[option], bool):
            if not isinstance(value, bool):
                raise ConfigError(f"option {option}={value!r} of optimiser {name!r}: must be True or False")
        else:
            below = 1.0 if option in ("b1", "b2", "momentum") else math.inf
            number(f"option {option} of optimiser {name!r}", value, below)
    if name == "sgd" and settings["nesterov"] and not settings["momentum"]:
        raise ConfigError(
            "optimiser 'sgd' with nesterov=True needs a momentum above 0; set it in config.optim.options, such as 0.9"
        )
    return settings
