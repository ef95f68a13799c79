"""Optimisers against torch.optim, leaf by leaf over twenty steps, and their refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.optim.build import all_finite, build, clip
from jaxseg.types import ConfigError

SHAPES = {"encoder.conv.weight": (3, 4), "encoder.conv.bias": (4,), "encoder.norm.weight": (4,), "head.weight": (4, 2)}
STEPS, LR = 20, 3e-2


def start():
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


def gradients(step):
    """Gradients of very different sizes, some exactly 0."""
    rng = np.random.default_rng(100 + step)
    out = {n: (rng.normal(size=s) * 10.0 ** rng.integers(-3, 2)).astype(np.float32) for n, s in SHAPES.items()}
    out["encoder.conv.bias"][0] = 0.0
    return out


def ours(*, name, lr=LR, steps=STEPS, **arguments):
    optimizer = build({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in SHAPES.items()}, name=name, **arguments)
    params = {n: jnp.asarray(p) for n, p in start().items()}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return {n: p + lr * updates[n] for n, p in params.items()}, state

    for i in range(steps):
        params, state = step(params, state, gradients(i))
    return params, state


def theirs(make, *, groups=None, clip_norm=0.0):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    params = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in start().items()}
    optimizer = make(torch, groups(params) if groups else list(params.values()))
    for i in range(STEPS):
        for n, g in gradients(i).items():
            params[n].grad = torch.tensor(g)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(list(params.values()), clip_norm)
        optimizer.step()
    return {n: p.detach().numpy() for n, p in params.items()}


CASES = {
    "adam": (dict(name="adam"), lambda t, p: t.optim.Adam(p, lr=LR)),
    "adam_decay": (
        dict(name="adam", weight_decay=0.1, options={"b1": 0.8, "b2": 0.95, "eps": 1e-5}),
        lambda t, p: t.optim.Adam(p, lr=LR, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-5),
    ),
    "adamw": (dict(name="adamw", weight_decay=0.3), lambda t, p: t.optim.AdamW(p, lr=LR, weight_decay=0.3)),
    "adagrad": (dict(name="adagrad"), lambda t, p: t.optim.Adagrad(p, lr=LR)),
    "adagrad_decay": (
        dict(name="adagrad", weight_decay=0.1, options={"initial": 0.2, "eps": 1e-7}),
        lambda t, p: t.optim.Adagrad(p, lr=LR, weight_decay=0.1, initial_accumulator_value=0.2, eps=1e-7),
    ),
    "sgd": (dict(name="sgd", weight_decay=0.1), lambda t, p: t.optim.SGD(p, lr=LR, weight_decay=0.1)),
    "momentum": (
        dict(name="sgd", options={"momentum": 0.9}, weight_decay=0.01),
        lambda t, p: t.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (
        dict(name="sgd", options={"momentum": 0.99, "nesterov": True}, weight_decay=3e-5),
        lambda t, p: t.optim.SGD(p, lr=LR, momentum=0.99, nesterov=True, weight_decay=3e-5),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_pytorch(case):
    arguments, make = CASES[case]
    expected, (found, _) = theirs(make), ours(**arguments)
    for name in SHAPES:  # float32 rounding of ~20 steps: a few units in the last place of numbers of order 1 to 10
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, atol=2e-6, err_msg=name)


def test_groups_and_clipping_equal_pytorch():
    def groups(params):
        return [
            {"params": [params["head.weight"]], "lr": 10 * LR},
            {"params": [params["encoder.norm.weight"]], "weight_decay": 0.0},
            {"params": [params["encoder.conv.weight"], params["encoder.conv.bias"]]},
        ]

    expected = theirs(lambda t, p: t.optim.AdamW(p, lr=LR, weight_decay=0.3), groups=groups, clip_norm=1.5)
    found, _ = ours(name="adamw", weight_decay=0.3, clip_norm=1.5, groups=((r"^head\.", {"lr": 10}), (r"norm", {"decay": 0.0})))
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=5e-6, atol=5e-6, err_msg=name)


GROUPS = ((r"^head\.", {"lr": 10}), (r"norm", {"decay": 0.0}))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("groups", [(), GROUPS], ids=["alike", "groups"])
def test_an_update_of_joined_arrays_is_that_of_each(case, groups):
    optimizer = build(start(), **CASES[case][0], groups=groups)
    layout = optimizer.layout
    assert len(layout.vectors) == 1 and len(layout.join(start())) == (3 if groups else 1)  # each with its own factors

    @jax.jit
    def run(grads, state, params, ok):
        return optimizer.update(grads, state, params, ok=ok)

    together = lambda state: {k: layout.join(v) if isinstance(v, dict) else v for k, v in state.items()}
    apart, params = optimizer.init(start()), start()
    joined = together(apart)
    for i, ok in enumerate((True, True, False, True)):  # the guard too
        one, apart = run(gradients(i), apart, params, ok)
        other, joined = run(layout.join(gradients(i)), joined, layout.join(params), ok)
        for a, b in zip(
            jax.tree.leaves((layout.join(jax.device_get(one)), together(jax.device_get(apart)))),
            jax.tree.leaves((jax.device_get(other), jax.device_get(joined))),
        ):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=0)
        params = {n: p + LR * np.asarray(one[n]) for n, p in params.items()}


def test_the_first_group_found_decides_and_an_lr_of_zero_freezes():
    found, _ = ours(name="adamw", weight_decay=0.3, groups=((r"weight$", {"lr": 0.0}), (r"conv", {"lr": 2.0})))
    faster, _ = ours(name="adamw", weight_decay=0.3, groups=((r"conv", {"lr": 2.0}),))
    for name, value in start().items():
        assert np.array_equal(found[name], value) == name.endswith("weight")
    np.testing.assert_array_equal(found["encoder.conv.bias"], faster["encoder.conv.bias"])


def test_decoupled_decay_scales_with_the_learning_rate_and_not_with_the_gradient():
    optimizer = build({"w": np.zeros(2)}, name="adamw", weight_decay=0.5)
    params = {"w": jnp.asarray([2.0, -4.0])}
    updates, _ = optimizer.update({"w": jnp.zeros(2)}, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], [-1.0, 2.0])


def test_clipping_never_enlarges_and_bounds_the_norm():
    grads = {"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}
    np.testing.assert_array_equal(clip(grads, 10.0)["a"], grads["a"])
    small = clip(grads, 1.0)
    np.testing.assert_allclose([small["a"][0], small["b"][0]], [0.6, 0.8], rtol=1e-6)  # 1e-6 is added to the norm of 5


@pytest.mark.parametrize("name, moments", [("adam", {"m", "v"}), ("adagrad", {"sum"}), ("sgd", set())])
def test_the_state_is_a_dict_of_arrays_under_the_parameters_names(name, moments):
    _, state = ours(name=name, steps=2)
    assert state.keys() == {"count", *moments} and int(state["count"]) == 2
    for moment in moments:
        assert {n: v.shape for n, v in state[moment].items()} == SHAPES
        assert all(v.dtype == jnp.float32 for v in state[moment].values())
    json.dumps(jax.tree.map(lambda a: np.asarray(a).tolist(), state))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(name="adamm"), "did you mean adam"),
        (dict(name="adam", options={"beta1": 0.9}), "option of optimiser 'adam'"),
        (dict(name="adam", options={"b1": 1.0}), r"in \[0, 1\)"),
        (dict(name="sgd", options={"nesterov": True}), "needs a momentum above 0"),
        (dict(name="sgd", options={"nesterov": 1}), "True or False"),
        (dict(name="adam", weight_decay=-1.0), "not negative"),
        (dict(name="adam", clip_norm=float("nan")), "not negative"),
        (dict(name="adam", groups=(("hed", {"lr": 2.0}),)), "match no"),
        (dict(name="adam", groups=(("head", {"rate": 2.0}),)), "factor of optimiser group"),
        (dict(name="adam", groups=(("head", 2.0),)), "must be"),
        (dict(name="adam", groups=(("(", {}),)), "not a valid regular expression"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        build({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in SHAPES.items()}, **arguments)


def test_gradients_of_another_network_are_refused():
    optimizer = build({"w": np.zeros(2)}, name="sgd")
    with pytest.raises(ValueError, match="names must be the same"):
        optimizer.update({"v": jnp.zeros(2)}, {"count": jnp.int32(0)}, {"w": jnp.zeros(2)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_a_single_bad_number_anywhere(bad):
    tree = {"a": jnp.zeros((3, 3)), "b": {"c": jnp.ones(5)}}
    assert bool(all_finite(tree)) and bool(all_finite({}))
    assert not bool(all_finite({**tree, "b": {"c": jnp.ones(5).at[3].set(bad)}}))


def test_the_first_step_of_adam_is_the_learning_rate_whatever_the_gradients_size():
    optimizer = build({"w": np.zeros(3)}, name="adam", options={"eps": 0.0})
    params = {"w": jnp.zeros(3)}
    updates, _ = optimizer.update({"w": jnp.asarray([1e-3, -5.0, 300.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-1.0, 1.0, -1.0], rtol=5e-7)  # 1 - 0.999 in float32 would be off by 2e-5
