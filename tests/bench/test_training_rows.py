"""The row of a whole training: what both sides take, what their curves say, and that a side runs."""

import json

import numpy as np
import pytest

from jaxseg.bench.side import Options
from jaxseg.bench.suites import training

CASE = training.CASES["segnext_t"]._replace(size=(4, 4), batch=3)


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """Eight patients with four slices each; a slice's number is in all of its pixels."""
    slices = lambda case, quick: ((f"p{i // 4}", np.full((4, 4, 1), i, np.float32), np.full((4, 4), i % 2)) for i in range(32))
    monkeypatch.setattr(training, "_slices", slices)
    assert training.write(CASE, tmp_path, 5) == 24
    return tmp_path


def test_no_patient_is_in_both_splits_and_each_epoch_takes_every_example_once(arrays):
    train, val = (np.load(arrays / f"{split}_images.npy")[:, 0, 0, 0].astype(int) for split in ("train", "val"))
    assert not {*train // 4} & {*val // 4} and len(val) == 6  # whole batches of the eight
    order = np.load(arrays / "order.npy")
    assert order.shape == (5, 8, 3) and all(sorted(epoch.ravel()) == list(range(24)) for epoch in order)
    assert not np.array_equal(order[0], order[1])


def test_the_curve_has_the_dice_of_all_voxels_after_each_epoch(arrays):
    taken = []

    def step(images, masks):
        taken.append((images[:, 0, 0, 0], masks[:, 0, 0]))
        return 0.0

    odd = lambda images: images[..., 0].astype(int) % 2
    labels = lambda images: odd(images) if len(taken) > 16 else np.ones_like(odd(images))
    found = training.trained(arrays, step, labels)
    assert len(taken) == 40 and all(np.array_equal(x.astype(int) % 2, y) for x, y in taken)
    assert [dice for _, dice in found["curve"]] == pytest.approx([2 * 3 / (6 + 3)] * 2 + [1.0] * 3)
    times = [then for then, _ in found["curve"]]
    assert found["first"] <= times[0] and times == sorted(times)


def test_seconds_count_from_the_command_and_from_the_first_step(monkeypatch):
    sides = {
        "ours": {"begin": 100.0, "first": 130.0, "curve": [(140.0, 0.5), (150.0, 0.85)], "parameters": 7},
        "peer": {"begin": 200.0, "first": 202.0, "curve": [(222.0, 0.6), (242.0, 0.7)], "parameters": 7},
        "weights": {"parameters": 7},
    }
    monkeypatch.setattr(training, "write", lambda *_, **__: 24)
    monkeypatch.setattr(training, "_run", lambda name, which, *_: sides[which])
    rows = list(training.rows("segnext_t", Options("", peers=True), limit=1, log=None))
    assert [(row.ours, row.peer_value) for row in rows] == [(30.0, 2.0), (50.0, None), (20.0, None), (0.85, 0.7)]
    assert rows[0].ratio == 15 and rows[1].note == "peer does not reach it" and rows[3].unit == "Dice"
    sides["peer"]["parameters"] = 8
    assert next(training.rows("segnext_t", Options("", peers=True), limit=1, log=None)).ratio == "FAILED"


@pytest.mark.slow
def test_both_sides_train_from_the_same_weights_to_the_same_dice(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the peer needs the extra [parity]")
    monkeypatch.setattr(training, "LR", 5e-3)  # a square is learnt in 80 steps
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        masks = np.zeros((4, 32, 32), np.int32)
        masks[:, 8:24, 8:24] = 1
        np.save(tmp_path / f"{split}_masks.npy", masks)
        np.save(tmp_path / f"{split}_images.npy", (masks + 0.3 * rng.normal(size=masks.shape))[..., None].astype(np.float32))
    np.save(tmp_path / "order.npy", np.tile(np.arange(4).reshape(2, 2), (40, 1, 1)))
    of = dict(gpu=False, quick=True, peers=True)
    assert training.weights("segnext_t", tmp_path, **of)["parameters"] > 0
    theirs, ours = (side("segnext_t", tmp_path, **of) for side in (training.peer, training.ours))
    assert json.loads(json.dumps(ours))["parameters"] == theirs["parameters"]
    dice = np.array([[d for _, d in side["curve"]] for side in (ours, theirs)])
    np.testing.assert_allclose(dice[0][-10:], dice[1][-10:], atol=0.02)
    assert dice[0][-1] > 0.9
