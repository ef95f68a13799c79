"""Optimisers by path: optax's equal ours, and what cannot serve is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.optim.build import build
from jaxseg.types import ConfigError
from tests.optim.test_optim_build import GROUPS, LR, SHAPES, gradients, start

PAIRS = {
    "adam": (dict(name="adam"), dict(name="optax:adam")),
    "adamw": (dict(name="adamw", weight_decay=0.3), dict(name="optax:adamw", weight_decay=0.3)),
    "adamw_groups": (
        dict(name="adamw", weight_decay=0.3, groups=GROUPS),
        dict(name="optax:adamw", weight_decay=0.3, groups=GROUPS),
    ),
    "adagrad": (
        dict(name="adagrad", options={"initial": 0.1, "eps": 1e-7}),
        dict(name="optax:adagrad", options={"initial_accumulator_value": 0.1}),
    ),
    "sgd_decay": (
        dict(name="sgd", weight_decay=0.1, groups=GROUPS, clip_norm=1.5, options={"momentum": 0.9, "nesterov": True}),
        dict(name="optax:sgd", weight_decay=0.1, groups=GROUPS, clip_norm=1.5, options={"momentum": 0.9, "nesterov": True}),
    ),
}


def trained(arguments, ok=lambda i: True, steps=10):
    optimizer = build(start(), **arguments)
    params, state = {n: jnp.asarray(p) for n, p in start().items()}, optimizer.init(start())

    @jax.jit
    def step(params, state, grads, ok):
        updates, state = optimizer.update(grads, state, params, ok=ok)
        return {n: p + LR * updates[n] for n, p in params.items()}, state

    for i in range(steps):
        moved, state = step(params, state, gradients(i), ok(i))
        params = moved if ok(i) else params
    return params, state


@pytest.mark.parametrize("pair", PAIRS)
def test_ours_are_optaxs(pair):
    with jax.enable_x64(True):  # optax takes 1 - b^n in float32, where it is off by 2e-5 of itself
        ours, theirs = (trained(arguments)[0] for arguments in PAIRS[pair])
    for name in SHAPES:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["optax:lion", "optax:lamb", "optax.contrib:muon"])
def test_a_bad_step_leaves_no_trace(name):
    params, state = trained(dict(name=name), ok=lambda i: i != 2, steps=4)
    optimizer = build(start(), name=name)
    other, kept = {n: jnp.asarray(p) for n, p in start().items()}, optimizer.init(start())
    for i in (0, 1, 3):
        updates, kept = jax.jit(optimizer.update)(gradients(i), kept, other)
        other = {n: p + LR * updates[n] for n, p in other.items()}
    for a, b in zip(jax.tree.leaves((params, state)), jax.tree.leaves((other, kept))):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # two programs


def of_ones_own(learning_rate, decay=0.9):
    """A factory outside optax."""
    return optax.chain(optax.trace(decay), optax.scale_by_learning_rate(learning_rate))


def of_no_use(learning_rate):
    return learning_rate


def test_a_factory_of_ones_own_is_called_with_its_options():
    path = f"{__name__}:of_ones_own"
    one, _ = trained(dict(name=path, options={"decay": 0.5}))
    other, _ = trained(dict(name="sgd", options={"momentum": 0.5}))
    for name in SHAPES:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-6)


def test_the_states_arrays_have_names_of_their_own():
    state = build(start(), name="optax:adamw", weight_decay=0.1, groups=GROUPS).init(start())
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert len(set(names)) == len(names) and sum(name.endswith("mu/head.weight") for name in names) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(name="optax:adamm"), "no attribute .adamm.; did you mean adam"),
        (dict(name="optim_that_is_not:there"), "no module"),
        (dict(name="optax:__version__"), "give the path of a function"),
        (dict(name="optax:scale_by_adam"), "no argument learning_rate"),
        (dict(name="optax:adam", options={"beta1": 0.9}), "option of optimiser 'optax:adam'"),
        (dict(name="optax:adam", options={"learning_rate": 0.1}), "set config.optim.lr"),
        (dict(name="optax:adamw", options={"weight_decay": 0.1}), "set config.optim.weight_decay"),
        (dict(name="optax:sgd", options={"momentum": "much"}), "optax:sgd"),
        (dict(name="optax:lbfgs"), "gradients and parameters alone"),
        (dict(name="optax:fromage"), "not proportional"),
        (dict(name=f"{__name__}:of_no_use"), "returns a float"),
        (dict(name="optax:adam", groups=(("hed", {"lr": 2.0}),)), "match no"),
    ],
)
def test_what_cannot_serve_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        build(start(), **arguments)
