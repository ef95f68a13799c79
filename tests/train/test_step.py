"""Laws of one training step, on a tiny network and generated batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.augment import compose as augmentations
from jaxseg.bench import collectives
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional
from jaxseg.optim import build as optimizers
from jaxseg.optim import joined as joining
from jaxseg.optim import schedules
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps
from jaxseg.types import ConfigError

pytestmark = pytest.mark.usefixtures("unoptimised")  # the laws hold whatever XLA makes of the program
SIZE = 32


def batch_of(n: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, SIZE, SIZE, 1), dtype=np.uint8)
    return {"image": image, "mask": (image[..., 0] > 128).astype(np.uint8), "index": np.arange(n)}


def make(
    devices: int,
    *,
    model: str = "unet_test",
    terms=(("dice", 1.0), ("bce", 1.0)),
    augment=(),
    ema: float = 0.0,
    optimizer: str = "adam",
    schedule=lambda s: jnp.float32(1),
    lr: float = 1e-2,
    **kwargs,
):
    network, params, net_state = functional.split(create_model(model, in_channels=1, num_classes=1))
    rule = optimizers.build(params, name=optimizer)
    mesh = meshes.make(devices)
    step = steps.build(network, losses.build(terms), rule, schedule, augmentations.build(augment), mesh, lr=lr, ema=ema, **kwargs)
    storage = states.storage(network, rule)
    state = states.place(storage.join(states.create(params, net_state, rule, ema=ema > 0)), meshes.replicated(mesh))
    return step, state, mesh, storage


def run(devices: int, batches: list[dict], **kwargs):
    step, state, mesh, storage = make(devices, **kwargs)
    for batch in batches:
        state, metrics = step(state, meshes.put(batch, mesh))
    return storage.part(jax.device_get(state)), jax.device_get(metrics)


@pytest.mark.parametrize(
    "arguments", [dict(optimizer="adamw", ema=0.9), dict(optimizer="optax:lion", accumulate=2)], ids=["adamw", "lion"]
)
def test_a_step_on_joined_arrays_is_the_step_on_each(arguments, monkeypatch):
    """Also the state's names and shapes are those of a run that joins nothing."""
    batches, found = [batch_of(4, seed) for seed in (0, 1)], []
    for small in (joining.SMALL, 0):
        monkeypatch.setattr(joining, "SMALL", small)
        step, state, mesh, storage = make(1, **arguments)
        assert bool(storage.trained.vectors) == (small > 0 and ":" not in arguments["optimizer"])
        assert bool(storage.buffers.vectors) == (small > 0)
        for batch in batches:
            state, _ = step(state, meshes.put(batch, mesh))
        found.append(storage.part(jax.device_get(state)))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    assert_close(*found, 2e-6)  # the norm of the gradient and XLA's sums are in another order


def assert_close(a, b, tolerance: float):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=str(path))


AUGMENT = (("hflip", 0.5, {}), ("rotate", 0.5, {"degrees": (-20.0, 20.0)}))


@pytest.mark.parametrize(
    "model, augment",
    [pytest.param("unet_test", AUGMENT, id="unet"), pytest.param("segnext_test_ich", (), id="segnext", marks=pytest.mark.full)],
)
def test_a_sharded_step_is_the_single_device_step(model, augment):
    batches = [batch_of(8, seed) for seed in (0, 1)]
    one, m1 = run(1, batches, model=model, augment=augment, optimizer="sgd")
    step, state, mesh, storage = make(8, model=model, augment=augment, optimizer="sgd")
    step = step.lower(state, meshes.put(batches[0], mesh)).compile()
    exchanged = collectives.of(step.program)
    assert {c.kind for c in exchanged} == {"all-reduce"} and not any(c.in_loop for c in exchanged)  # no image, no activation
    for batch in batches:
        state, m8 = step(state, meshes.put(batch, mesh))
    eight, m8 = storage.part(jax.device_get(state)), jax.device_get(m8)
    # Batch statistics, loss and gradients are the same sums in another order.
    assert abs(m1["loss"] - m8["loss"]) < 1e-5
    assert_close(one["params"], eight["params"], 2e-5)
    assert_close(one["state"], eight["state"], 2e-4)


def test_accumulation_averages_gradients():
    model = create_model("unet2d", in_channels=1, num_classes=1, widths=(4, 4, 4, 4), bridge=4)
    network, params, net_state = functional.split(model)
    optimizer = optimizers.build(params, name="sgd", options={"momentum": 0.0})
    mesh, loss, identity = meshes.make(1), losses.build((("bce", 1.0),)), augmentations.build(())
    results = []
    for accumulate in (1, 4):
        step = steps.build(network, loss, optimizer, lambda s: jnp.float32(1), identity, mesh, lr=0.1, accumulate=accumulate)
        storage = states.storage(network, optimizer)
        state = states.place(storage.join(states.create(params, net_state, optimizer, ema=False)), meshes.replicated(mesh))
        state, metrics = step(state, meshes.put(batch_of(8), mesh))
        results.append(jax.device_get((state["params"], metrics["loss"])))
    assert_close(results[0], results[1], 1e-5)  # sums in another order


def test_every_device_takes_its_share_of_each_micro_batch():
    model = create_model("unet2d", in_channels=1, num_classes=1, widths=(4, 4, 4, 4), bridge=4)
    network, params, net_state = functional.split(model)
    optimizer = optimizers.build(params, name="sgd", options={"momentum": 0.0})
    loss, identity = losses.build((("bce", 1.0),)), augmentations.build(())
    work, results = [], []
    for devices in (1, 8):
        mesh = meshes.make(devices)
        step = steps.build(network, loss, optimizer, lambda s: jnp.float32(1), identity, mesh, lr=0.1, accumulate=2)
        storage = states.storage(network, optimizer)
        state = states.place(storage.join(states.create(params, net_state, optimizer, ema=False)), meshes.replicated(mesh))
        batch = meshes.put(batch_of(16), mesh)
        work.append(step.lower(state, batch).compile().program.cost_analysis()["flops"])
        state, _ = step(state, batch)
        results.append(jax.device_get(state["params"]))
    assert work[1] < 0.2 * work[0]  # an eighth, and what every device does for itself
    assert_close(*results, 1e-5)


@pytest.mark.fault("F21")
def test_a_non_finite_batch_changes_nothing_but_the_counters():
    step, state, mesh, _ = make(1, ema=0.9)
    state, _ = step(state, meshes.put(batch_of(4), mesh))
    before = jax.device_get(state)
    poisoned = batch_of(4)
    poisoned["image"] = poisoned["image"].astype(np.float32)
    poisoned["image"][0, 0, 0, 0] = np.nan
    state, metrics = step(state, meshes.put(poisoned, mesh))
    after = jax.device_get(state)
    for key in ("params", "state", "opt", "ema"):
        for a, b in zip(jax.tree.leaves(before[key]), jax.tree.leaves(after[key])):
            np.testing.assert_array_equal(a, b)
    assert (int(after["step"]), int(after["bad_steps"]), int(after["skipped"])) == (2, 1, 1)
    state, metrics = step(state, meshes.put(batch_of(4), mesh))
    assert int(metrics["bad_steps"]) == 0 and int(metrics["skipped"]) == 1


def test_the_moving_average_follows_its_recurrence():
    step, state, mesh, _ = make(1, ema=0.9)
    name = next(iter(state["params"]))
    average = np.array(state["ema"][name])
    for seed in range(3):
        state, _ = step(state, meshes.put(batch_of(4, seed), mesh))
        average = average + 0.1 * (np.array(state["params"][name]) - average)
    np.testing.assert_allclose(state["ema"][name], average, rtol=1e-5, atol=1e-6)


def test_bfloat16_compute_keeps_float32_weights_and_comes_close():
    full, m32 = run(1, [batch_of(4)])
    half, m16 = run(1, [batch_of(4)], dtype="bfloat16")
    assert all(v.dtype == np.float32 for v in half["params"].values())
    assert abs(m32["loss"] - m16["loss"]) < 0.02 * abs(m32["loss"])  # bfloat16 carries 8 bits


def test_the_step_compiles_once():
    step, state, mesh, _ = make(8)
    for seed in range(3):
        state, _ = step(state, meshes.put(batch_of(8, seed), mesh))
    assert step.program._cache_size() == 1


def test_runs_that_differ_in_their_seed_share_a_program_and_no_random_numbers():
    batch, found = batch_of(4), []
    for seed in (1, 2, 1):
        step, state, mesh, _ = make(1, augment=AUGMENT, seed=seed)
        lowered = step.lower(state, meshes.put(batch, mesh))
        found.append((lowered.program.as_text(), float(step(state, meshes.put(batch, mesh))[1]["loss"])))
    (one, first), (other, second), (_, again) = found
    assert one == other and first == again != second


def test_runs_that_differ_in_their_length_share_a_program_and_follow_their_own_schedules():
    batch, found = batch_of(4), []
    for total in (2, 4):
        schedule = schedules.build(name="poly", total_steps=total, steps_per_epoch=1)
        step, state, mesh, _ = make(1, schedule=schedule, lr=0.5)
        compiled = step.lower(state, meshes.put(batch, mesh))
        text, rates = compiled.program.as_text(), []
        for _ in range(2):
            state, metrics = step({**state, "lr_scale": state["lr_scale"] * 2}, meshes.put(batch, mesh))
            rates.append(float(metrics["lr"]))
        found.append((text, rates))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose([rates for _, rates in found], [[1, 1], [1, 1.5]], rtol=1e-6)  # 0.5 (1 - n / total) 2^(n + 1)


def test_weights_of_auxiliary_outputs_that_the_network_lacks_are_refused_before_anything_compiles():
    step, state, mesh, _ = make(1, auxiliary=True)
    with pytest.raises(ConfigError, match="aux_weights.*has none"):
        step.lower(state, meshes.put(batch_of(4), mesh))


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do():
    with pytest.raises(ConfigError, match="train.batch_size=12: must be divisible by the number of devices, 8; set 8 or 16"):
        meshes.check_batch(12, meshes.make(8), "train.batch_size")


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="only 8 devices"):
        meshes.make(9)
