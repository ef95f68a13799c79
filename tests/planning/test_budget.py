"""A plan fits the machine: as many steps as the minutes allow, patches that fit into the device's memory."""

import math

import pytest

from configs.folder import get_config as folder
from jaxseg.config import resolve
from jaxseg.experiments import measures
from jaxseg.planning import budget
from jaxseg.planning.configurations import Network
from jaxseg.types import ConfigError
from tests.planning.test_plan import balls, passed, planned, raw

CASES = (8.0, 1.0, 2.0)


def network(memory_gb: float) -> Network:
    """One of patches whose side is ten times the memory; below 0.03 GB there is none."""
    if memory_gb < 0.03:
        raise ConfigError("too little")
    side = round(100 * memory_gb) * 8
    return Network((1.0,) * 3, (64.0,) * 3, (side,) * 3, 2, (8, 16), ((1,) * 3, (2,) * 3), ((3,) * 3,) * 2, False, True)


def cubic(one: Network) -> budget.Cost:
    return budget.Cost(20.0, (one.patch[0] / 160) ** 3 * 4, one.patch[0] ** 3)


def test_steps_of_a_training_fit_into_its_minutes():
    found = budget.length(budget.Cost(30.0, 0.5, 0), network(0.17), CASES, 10.0)
    assert found.steps * 0.5 + 2 * 30 < 600 and found.steps > 600
    assert found.steps == found.epochs * round(found.per_volume * 8 / 2)
    assert budget.length(budget.Cost(30.0, 0.5, 0), network(0.17), CASES, 20.0).steps > 1.8 * found.steps


def test_patches_shrink_until_enough_steps_fit():
    one, found = budget.to_minutes(network, cubic, CASES, 10.0, memory_gb=0.2, allowance=budget.Allowance())
    assert one.patch[0] < 160 and found.cost == cubic(one)
    assert found.steps >= budget.ENOUGH > budget.length(cubic(network(0.2)), network(0.2), CASES, 10.0).steps
    slow = lambda one: budget.Cost(20.0, 100.0, 0)
    assert (
        budget.to_minutes(network, slow, CASES, 1.0, memory_gb=0.035, allowance=budget.Allowance())[1].steps > 0
    )  # no smaller network: the few that there are


def test_compilations_end_where_the_others_would_have_no_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    allowance = budget.Allowance(2)
    allowance.begin()
    assert allowance.allows(80.0) and not allowance.allows(95.0)  # one more of this network, and one of the other
    now[0] = 30.0
    assert not allowance.allows(80.0)
    allowance.begin()
    assert allowance.allows(100.0)


def test_a_step_fits_into_the_memory_of_the_device():
    compiled = []
    one, found = budget.to_memory(network, lambda n: compiled.append(n) or cubic(n), 0.2, 120**3, allowance=budget.Allowance())
    assert found.memory <= 120**3 and one.patch[0] < 160 and len(compiled) <= budget.TRIES
    assert budget.to_memory(network, cubic, 0.2, 10**9, allowance=budget.Allowance())[0] == network(0.2)


def test_by_nnunets_own_rules_the_machine_does_not_matter():
    tree = folder()
    tree.plan.rules = "nnunet"
    assert measures.device(tree)[1:4] == (False, 0.0, None)
    tree.plan.minutes = 5.0
    with pytest.raises(ConfigError, match="plan.minutes=5: config.plan.rules='nnunet' plans nnU-Net's 1000 epochs; leave one"):
        measures.device(tree)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxseg.planned._check", lambda *arguments: None)
    return raw(tmp_path / "Dataset001_Balls", list(balls())[:5], test=1)


def test_on_a_cpu_a_plan_is_for_ten_minutes(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measures, "training_step", lambda config, *data, limit: budget.Cost(20.0, 0.25, 10**8))
    text, get_config = planned(small, tmp_path / "plan.py", plan__minutes=None)
    assert "planned by nnU-Net's rules for 10 minutes on a CPU" in text and len(text.splitlines()) <= 60
    assert "a step takes 0.25 s, 0.1 GB by XLA's figure, and compiles in 20 s, measured" in capsys.readouterr().out
    for arguments in ("", "2d"):
        c = get_config(arguments)
        assert c.model.options.widths[0] == budget.WIDTH and c.optim.name == "adamw" and c.infer.mirror == ()
        assert c.schedule.warmup >= 1 and c.train.epochs < 100 and c.data.foreground == 0.5
        assert {name for name, *_ in c.train.augment} == {"rotate", "scale", "brightness", "mirror"}
    passed(get_config())


def test_left_and_right_are_not_exchanged_by_a_plan_for_classes_named_so(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxseg.planned._check", lambda *arguments: None)
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "left lung": 1, "right lung": 2}}
    root = raw(tmp_path / 'Dataset002 \\N"""Lungs', list(balls())[:4], about=about)  # names of folders may hold anything
    _, get_config = planned(root, tmp_path / "plan.py")
    for arguments, mirrored in (("", (0, 1)), ("2d", (1,))):  # z y x
        c = get_config(arguments)
        assert tuple(c.infer.mirror) == mirrored
        assert [options for name, _, options in c.train.augment if name == "mirror"] == [{"axes": ("d", "h")}]


def test_a_plan_for_another_machine_is_an_estimate_and_compiles_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "training_step", lambda *a, **k: pytest.fail("compiled"))
    text, get_config = planned(small, tmp_path / "plan.py", plan__minutes=None, plan__memory_gb=24.0)
    assert "for 24 GB" in text and "Memory is nnU-Net's estimate" in text and get_config().train.epochs == 1000
    with pytest.raises(ConfigError, match="config.plan.minutes=5: is measured on this machine"):
        planned(small, tmp_path / "other.py", plan__minutes=5.0, plan__memory_gb=24.0)


@pytest.mark.slow
def test_a_step_is_compiled_and_timed_and_not_run_where_its_memory_is_too_small():
    tree = folder("quick")
    tree.data.channels, tree.data.size, tree.train.augment, tree.data.intensity = 1, (16, 16), (), "zscore"
    tree.data.mean = tree.data.std = ()
    config = resolve(tree, name="folder")
    cost = measures.training_step(config, ("disc",))
    assert cost.compilation > 0 and 0 < cost.step < 30 and 10**4 < cost.memory < 10**9
    assert math.isnan(measures.training_step(config, ("disc",), limit=1).step)
