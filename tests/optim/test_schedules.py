"""Schedules against torch's, warm-up by hand, the plateau against torch's over random figures."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.optim import schedules
from jaxseg.types import ConfigError

PER_EPOCH, EPOCHS = 7, 10
TOTAL = PER_EPOCH * EPOCHS


def factors(**arguments):
    f = jax.jit(schedules.build(total_steps=TOTAL, steps_per_epoch=PER_EPOCH, **arguments))
    return np.array([f(jnp.int32(i)) for i in range(TOTAL + 3)])


def torch_factors(make, per_epoch):
    """The factor torch's scheduler gives at each step when stepped per epoch or per step."""
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, out = make(torch.optim.lr_scheduler, optimizer), []
    for i in range(TOTAL):
        if per_epoch and i and i % PER_EPOCH == 0:
            scheduler.step()
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch:
            scheduler.step()
    return np.array(out)


@pytest.mark.parametrize(
    "arguments, make, per_epoch",
    [
        (
            dict(name="cosine", options={"final": 0.1, "per_epoch": True}),
            lambda s, o: s.CosineAnnealingLR(o, EPOCHS, eta_min=0.1),
            True,
        ),
        (dict(name="cosine", options={"period": 20, "per_epoch": True}), lambda s, o: s.CosineAnnealingLR(o, 20), True),
        (dict(name="cosine"), lambda s, o: s.CosineAnnealingLR(o, TOTAL), False),
        (dict(name="poly", options={"power": 0.9}), lambda s, o: s.PolynomialLR(o, TOTAL, 0.9), False),
        (dict(name="poly", options={"power": 0.9, "per_epoch": True}), lambda s, o: s.PolynomialLR(o, EPOCHS, 0.9), True),
        (dict(name="step", options={"every": 3, "factor": 0.5}), lambda s, o: s.StepLR(o, 3, 0.5), True),
        (dict(name="step", options={"milestones": (2, 5), "factor": 0.3}), lambda s, o: s.MultiStepLR(o, (2, 5), 0.3), True),
    ],
    ids=["cosine_epoch", "half_cosine", "cosine", "poly", "poly_epoch", "step", "milestones"],
)
def test_the_factor_equals_torchs(arguments, make, per_epoch):
    np.testing.assert_allclose(factors(**arguments)[:TOTAL], torch_factors(make, per_epoch), atol=5e-7)  # float32; torch recurses


def test_warm_up_is_linear_from_its_ratio_and_multiplies_the_schedule():
    found = factors(name="poly", warmup=10, warmup_ratio=0.2)
    steps = np.arange(TOTAL)
    expected = (1 - steps / TOTAL) * np.where(steps < 10, 0.2 + 0.8 * steps / 10, 1.0)
    np.testing.assert_allclose(found[:TOTAL], expected, atol=5e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("name, last", [("constant", 1.0), ("poly", 0.25), ("cosine", 0.25)])
def test_the_last_value_stays_after_the_period(name, last):
    found = factors(name=name, options={} if name == "constant" else {"final": last, "period": 5})
    np.testing.assert_allclose(found[5 * PER_EPOCH :], last, atol=1e-7)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(name="cosin"), "cosine"),
        (dict(name="poly", options={"powr": 2}), "did you mean power"),
        (dict(name="constant", options={"power": 2}), "option of schedule"),
        (dict(name="poly", options={"power": 0}), "above 0"),
        (dict(name="cosine", options={"final": 2.0}), "fraction of the peak"),
        (dict(name="cosine", options={"period": -1}), "above 0"),
        (dict(name="step"), "give exactly one"),
        (dict(name="step", options={"milestones": 2}), "list of epochs"),
        (dict(name="step", options={"milestones": (0,)}), "above 0"),
        (dict(name="constant", warmup=TOTAL), "shorter than the run"),
        (dict(name="constant", warmup=1, warmup_ratio=1.5), "0..1"),
        (dict(name="poly", options={"per_epoch": 1}), "True or False"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        factors(**arguments)


@pytest.mark.parametrize("seed", range(12))
def test_plateau_moves_as_torchs_does(seed):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    rng = np.random.default_rng(seed)
    options = dict(
        mode=["min", "max"][seed % 2],
        factor=[0.5, 0.1, 0.7][seed % 3],
        patience=int(rng.integers(0, 4)),
        threshold=[1e-4, 0.05][seed // 2 % 2],
        threshold_mode=["rel", "abs"][seed // 4 % 2],
        cooldown=int(rng.integers(0, 3)),
        min_lr=[0.0, 1e-4][seed // 3 % 2],
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    plateau, scale = schedules.Plateau(lr=1e-2, **options), 1.0
    for i, value in enumerate(np.cumsum(rng.normal(size=60)) * 0.1 + rng.normal()):
        value = math.nan if i == 17 else float(value)
        reference.step(value)
        scale *= plateau.update(value)
        assert plateau.lr == optimizer.param_groups[0]["lr"]
        if i % 7 == 0:  # as if the run had been interrupted
            saved, plateau = json.loads(json.dumps(plateau.state(), allow_nan=False)), schedules.Plateau(lr=1e-2, **options)
            plateau.load(saved)
    assert plateau.lr < 1e-2
    assert scale == pytest.approx(plateau.lr / 1e-2, rel=1e-12)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"factor": 1.0}, "strictly between"),
        ({"mode": "low"}, "plateau mode"),
        ({"patience": -1}, "at least 0"),
        ({"patiense": 3}, "did you mean patience"),
        ({"factor": "half"}, "above 0"),
        ({"threshold_mode": "relative"}, "rel"),
    ],
)
def test_a_plateau_that_cannot_be_meant_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        schedules.Plateau(lr=1.0, **options)


def test_a_schedule_of_optax_runs_over_the_whole_run_and_is_warmed_up():
    found = schedules.build(name="optax:cosine_decay_schedule", warmup=4, total_steps=40, steps_per_epoch=10)
    ours = schedules.build(name="cosine", warmup=4, total_steps=40, steps_per_epoch=10)
    for step in (0, 1, 4, 17, 39, 50):
        np.testing.assert_allclose(found(step), ours(step), rtol=1e-6, atol=1e-7)


def test_a_schedule_with_a_peak_warms_up_from_0():
    found = schedules.build(
        name="optax:warmup_cosine_decay_schedule", options={"warmup_steps": 4}, total_steps=40, steps_per_epoch=10
    )
    np.testing.assert_allclose([float(found(step)) for step in (0, 2, 4)], [0.0, 0.5, 1.0], atol=1e-6)


def test_the_options_of_a_schedule_by_path_are_its_own():
    found = schedules.build(
        name="optax:exponential_decay", options={"transition_steps": 10, "decay_rate": 0.5}, total_steps=40, steps_per_epoch=10
    )
    np.testing.assert_allclose([found(0), found(10), found(20)], [1, 0.5, 0.25], rtol=1e-6)


def vector(total_steps):
    return lambda step: np.ones(total_steps)


def branching(total_steps):
    return lambda step: 1.0 if step < total_steps else 0.0


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("optax:cosine", {}, "no attribute"),
        ("optax:cosine_decay_schedule", {"final": 0.1}, "option of schedule"),
        ("optax:exponential_decay", {}, "needs decay_rate"),
        ("optax:adam", {"learning_rate": 0.1}, "must return a function of the step"),
        (f"{__name__}:vector", {}, "must return a number"),
        (f"{__name__}:branching", {}, "must return a function of the step"),
    ],
)
def test_a_path_to_what_is_no_schedule_is_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        schedules.build(name=name, options=options, total_steps=40, steps_per_epoch=10)
