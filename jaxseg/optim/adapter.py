"""Optimisers by the path of a factory: optax's, or your own, with the groups, the guard and the learning rate of all others.

A factory is a function with an argument `learning_rate` that gives an `optax.GradientTransformation`. It is called with a
learning rate of 1, and the step multiplies its updates by the schedule: what it computes must be proportional to the rate,
which is tried out on a few numbers. Everything else of optax follows: `optax.chain`, `optax.masked` and so on, in a
function of your own.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import import_object, unknown_name


def factory(path: str | Callable, what: str) -> tuple[Callable, Mapping[str, inspect.Parameter]]:
    """The function behind "module:name", or the function that was given, and its parameters by name.

    Raises:
      ConfigError: there is none. optax's own are "optax:adam", "optax.contrib:muon".
    """
    make = import_object(path, what) if isinstance(path, str) else path
    if not callable(make):
        raise ConfigError(f"{what} {path!r}: is a {type(make).__name__}; name a function")
    return make, inspect.signature(make).parameters


def call(
    make: Callable,
    path: str | Callable,
    what: str,
    takes: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    given: Mapping[str, Any],
):
    """make(**options, **given), where `given` is not for the user to set.

    Raises:
      ConfigError: an option that it does not take, one of `given`, one that is missing, or a value that it refuses.
    """
    known = [name for name, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given]
    for option in options:
        if option not in known and not any(p.kind == p.VAR_KEYWORD for p in takes.values()):
            raise unknown_name(f"option of {what} {path!r}", option, known)
    missing = [name for name in known if takes[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ConfigError(f"{what} {path!r} needs {', '.join(missing)}: give them as options, {{'{missing[0]}': value}}")
    try:
        return make(**options, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} {path!r} with options {dict(options)}: {error}") from error


def adapt(
    params: Mapping[str, Array],
    path: str | Callable,
    options: Mapping[str, Any],
    weight_decay: float,
    factors: Mapping[str, tuple[float, float]],
) -> tuple[Callable, Callable]:
    """(init, update) of `build.Optimizer` around the transformation that a factory gives.

    Weight decay is handed to a factory that has an argument of that name, and added to the gradient for the others; a factor
    of a group multiplies it. Parameters whose factors of it differ are then updated by a transformation each, so that what a
    transformation shares among all its parameters is shared within such a set.

    Args:
      params: arrays or shapes by name.
      path: "optax:name" or "module:name", or the factory itself.
      options: the factory's other arguments.
      weight_decay: of every parameter, times its factor.
      factors: name -> (learning-rate factor, decay factor).
    Raises:
      ConfigError: no such factory, options it does not take, or a transformation that needs more than gradients and parameters
        or whose updates are not proportional to its learning rate.
    """
    what = "optimiser"
    make, takes = factory(path, what)
    if "learning_rate" not in takes:
        raise ConfigError(f"optimiser {path!r} has no argument learning_rate; name a factory that has one, such as optax:adam")
    for key in ("learning_rate", "weight_decay"):
        if key in options:
            raise ConfigError(f"option {key} of optimiser {path!r}: set config.optim.{'lr' if key[0] == 'l' else key} instead")
    own = "weight_decay" in takes

    def transformation(decay: float = 1.0, rate: float = 1.0) -> optax.GradientTransformationExtraArgs:
        given = {"learning_rate": rate} | ({"weight_decay": weight_decay * decay} if own else {})
        made = call(make, path, what, takes, options, given)
        if not isinstance(made, optax.GradientTransformation):
            raise ConfigError(f"optimiser {path!r} gives a {type(made).__name__}; it must give an optax.GradientTransformation")
        return optax.with_extra_args_support(made)

    _check(path, transformation)
    decays = sorted({decay for _, decay in factors.values()}) if own and weight_decay else [1.0]
    if len(decays) > 1:
        inner = optax.partition(
            {str(decay): transformation(decay) for decay in decays}, {name: str(decay) for name, (_, decay) in factors.items()}
        )
    else:
        inner = transformation(decays[0])

    def init(params: Mapping[str, Array]):
        return jax.device_get(jax.jit(inner.init)(dict(params)))  # one program, not one for each shape

    def update(grads: Mapping[str, Array], state, params: Mapping[str, Array], ok):
        if not own and weight_decay:
            grads = {name: g + weight_decay * factors[name][1] * params[name] for name, g in grads.items()}
        updates, new = inner.update(dict(grads), state, dict(params))
        if ok is not None:
            new = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, state)
        return {name: factors[name][0] * u.astype(jnp.float32) for name, u in updates.items()}, new

    return init, update


def _check(path: str | Callable, transformation: Callable) -> None:
    """Two updates of a few numbers with learning rates of 1 and 1/2: the second half as large as the first."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("a", (2, 3)), ("b", (3,)))}
    grads = [jax.tree.map(lambda p, s=s: (s - p).astype(np.float32), params) for s in (1.0, 0.5)]

    def run(rate: float):
        inner, found = transformation(rate=rate), []
        state = inner.init(params)
        for g in grads:
            updates, state = inner.update(g, state, params)
            found.append(updates)
        return found

    try:
        whole, half = jax.device_get(jax.jit(lambda: (run(1.0), run(0.5)))())
    except (TypeError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise ConfigError(f"optimiser {path!r} cannot be updated with gradients and parameters alone: {text}") from error
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(half)):
        if not np.allclose(one, 2 * other, rtol=1e-3, atol=1e-6):
            raise ConfigError(
                f"the updates of optimiser {path!r} are not proportional to its learning rate, and those of a rate "
                "of 1 are multiplied by config.optim.lr and the schedule; choose another, such as optax:adam"
            )
