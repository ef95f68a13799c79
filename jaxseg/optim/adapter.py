"""Optimisers from a factory that is named by its path: one of optax's, or your own.

A factory is a function with an argument `learning_rate` that returns an `optax.GradientTransformation`. It is called with a
learning rate of 1, and the training step multiplies its updates by the scheduled learning rate. Its updates must therefore be
proportional to the learning rate, which is checked on a few numbers. Parameter groups, the guard against non-finite gradients
and clipping work as for all optimisers. A factory of your own may use `optax.chain`, `optax.masked` and so on.
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
    """Return a factory, which is given as a function or by its path "module:name", with its parameters by name.

    Raises:
      ConfigError: there is no such function. Examples: "optax:adam", "optax.contrib:muon".
    """
    make = import_object(path, what) if isinstance(path, str) else path
    if not callable(make):
        raise ConfigError(f"{what} {path!r}: is a {type(make).__name__}; give the path of a function")
    return make, inspect.signature(make).parameters


def call(
    make: Callable,
    path: str | Callable,
    what: str,
    takes: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    given: Mapping[str, Any],
):
    """Call make(**options, **given), where the user may set `options` but not `given`.

    Raises:
      ConfigError: an option is unknown, missing or in `given`, or `make` refuses a value.
    """
    known = [name for name, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given]
    for option in options:
        if option not in known and not any(p.kind == p.VAR_KEYWORD for p in takes.values()):
            raise unknown_name(f"option of {what} {path!r}", option, known)
    missing = [name for name in known if takes[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ConfigError(
            f"{what} {path!r} needs {', '.join(missing)}; set them in its options, such as {{'{missing[0]}': value}}"
        )
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
    """Wrap the transformation of a factory as (init, update) of a `build.Optimizer`.

    Weight decay is passed to a factory that has an argument `weight_decay`, and added to the gradients otherwise; group factors
    multiply it. A factory with this argument is called once for each decay factor, and each of the resulting transformations
    updates the parameters with its factor. A value that a transformation computes from all its parameters, such as a norm, is
    then computed from these parameters alone.

    Args:
      params: arrays or shapes by name.
      path: "optax:name", "module:name", or the factory itself.
      options: the factory's other arguments.
      weight_decay: weight decay of every parameter, before its factor.
      factors: {name: (learning-rate factor, decay factor)}.
    Raises:
      ConfigError: there is no such factory, it does not have these options, its transformation needs more than gradients and
        parameters, or its updates are not proportional to the learning rate.
    """
    what = "optimiser"
    make, takes = factory(path, what)
    if "learning_rate" not in takes:
        raise ConfigError(f"optimiser {path!r} has no argument learning_rate; give a factory that has one, such as optax:adam")
    for key in ("learning_rate", "weight_decay"):
        if key in options:
            raise ConfigError(f"option {key} of optimiser {path!r}: set config.optim.{'lr' if key[0] == 'l' else key} instead")
    own = "weight_decay" in takes

    def transformation(decay: float = 1.0, rate: float = 1.0) -> optax.GradientTransformationExtraArgs:
        given = {"learning_rate": rate} | ({"weight_decay": weight_decay * decay} if own else {})
        made = call(make, path, what, takes, options, given)
        if not isinstance(made, optax.GradientTransformation):
            raise ConfigError(
                f"optimiser {path!r} returns a {type(made).__name__}; it must return an optax.GradientTransformation"
            )
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
    """Check on a few numbers that a learning rate of 1/2 halves the updates."""
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
                f"the updates of optimiser {path!r} are not proportional to its learning rate, which config.optim.lr and the "
                "schedule require; choose another optimiser, such as optax:adam"
            )
