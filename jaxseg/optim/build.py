"""Optimisers by name, with learning-rate and decay factors by regular expression, a guard and clipping.

The update is for a learning rate of 1 and already negative: new = param + lr * update. Our own follow torch.optim
(2.13): Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), Adagrad (Duchi et al. 2011), SGD with (Nesterov)
momentum and no dampening. They treat every number alike, so that small arrays can be stored as one vector
(`Optimizer.layout`): SegNeXt-T's 446 arrays as 48 and a vector of the other 398. Any factory of optax or of your own is
taken by its path (`adapter`), array by array.
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
    """What a training step needs of an optimiser; `init` and `update` alone are an optax transformation.

    Attributes:
      init: params by name -> state.
      update: (gradients, state, params, ok=None) -> (updates for a learning rate of 1, new state). Where the flag `ok` is
        false the state stays as it is. Takes all trees as `init` does, or all joined by `layout`.
      layout: which arrays of params, and of everything in the state that lies under their names, may be joined.
    """

    init: Callable
    update: Callable
    layout: Layout = Layout()


class UpdateRule(NamedTuple):
    """An optimiser: the moments it keeps per leaf, its direction, its options, and how weight decay enters."""

    update_moments: Callable  # (gradient, moments, **options) -> new moments
    step_direction: Callable  # (gradient, new moments, scalars, **options) -> step before the learning rate
    moments: Callable  # (leaf, **options) -> {name: initial array}
    options: Mapping[str, float | bool]
    scalars: Callable = lambda count, **_: ()  # numbers shared by all leaves; count of updates, from 1
    decoupled: bool = False


def _one_minus_power(base: float, count: Array) -> Array:
    """1 - base^count without cancellation: 1 - 0.999 in float32 is off by 5e-5 of itself."""
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
    return np.zeros(leaf.shape, np.float32)  # by numpy: no program to compile for each shape


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
    """The optimiser of these parameters; its updates are for a learning rate of 1.

    The state of our own is {"count": int32, "<moment>": {parameter name: float32 array}}. Weight decay is decoupled for adamw
    (param shrinks by lr * decay) and added to the gradient for the others, after clipping, as PyTorch does.

    Args:
      params: arrays or shapes under dotted names.
      name: one of OPTIMIZERS, or the path of a factory: "optax:lion", "my_module:factory", or the factory
        itself (see `adapter.adapt`).
      options: adam, adamw: b1, b2, eps; adagrad: eps, initial (accumulator); sgd: momentum, nesterov; a factory's arguments.
      weight_decay: of every leaf, times its group's "decay".
      groups: ((regular expression, {"lr": factor, "decay": factor}), ...): the first expression found in a leaf's name
        decides; a leaf that none claims, and a factor left out, count as 1. An lr of 0 freezes.
      clip_norm: scale all gradients together so that their norm is at most this; 0: off.
      multiple: of the layout: devices that share the joined arrays.
    Raises:
      ConfigError: unknown optimiser, option or factor, a value outside its range, a group that claims no parameter.
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
            raise ValueError(f"got gradients of {len(grads)} parameters for an optimiser built for {len(factors)}; names differ")
        return advance(clip(grads, clip_norm) if clip_norm else grads, state, params, ok)

    return Optimizer(init, update, layout)


def _by_rule(rule: UpdateRule, settings: Mapping, weight_decay: float, factors: Mapping[str, tuple[float, float]]):
    """(init, update) of one of our own; `factors` also holds those of the vectors."""

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
            new_moments = cpu_barrier(new_moments)  # else XLA computes them twice, and copies the old ones for it
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
    """Gradients times min(1, max_norm / (norm + 1e-6)), norm over all leaves: torch.nn.utils.clip_grad_norm_."""
    factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + 1e-6))
    return jax.tree.map(lambda g: g * factor, grads)


def all_finite(tree) -> Array:
    """Whether every number of every leaf is finite: a boolean scalar, on the device. An empty tree is finite."""
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
        raise ConfigError("optimiser 'sgd' with nesterov=True and momentum=0: set momentum, e.g. 0.9")
    return settings
