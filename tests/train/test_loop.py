"""Laws of the loop, with a step that does next to nothing."""

import contextlib
import errno
import signal
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring

from jaxseg.checkpoint import Checkpoints, load_weights
from jaxseg.checkpoint import step as steps
from jaxseg.optim.schedules import Plateau
from jaxseg.programs.kept import Kept
from jaxseg.programs.program import Program
from jaxseg.train import loop
from jaxseg.train import mesh as meshes
from jaxseg.train.log import Log
from jaxseg.train.state import Storage
from jaxseg.types import NonFiniteError, StorageError

SETTINGS = dict(log_every=2, eval_every=1, save_every=1, alarm_after=2, stop_nonfinite=3, watchdog=0)


class Stream:
    """Batches that hold their own number."""

    def __init__(self, start: int):
        self.position = start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __next__(self):
        number, self.position = self.position, self.position + 1
        return {"image": np.full((2, 1), number, np.float32), "index": 5 * number + np.array([2, 0])}


def fresh_state() -> dict:
    one = lambda: jnp.zeros((), jnp.int32)
    return {
        "step": one(),
        "params": {"w": jnp.zeros(2)},
        "state": {},
        "opt": {},
        "ema": {},
        "lr_scale": jnp.ones(()),
        "bad_steps": one(),
        "skipped": one(),
    }


def job(
    workdir,
    *,
    epochs=4,
    bad=False,
    positive=(("a", 1),),
    plateau=None,
    criterion="val_loss",
    losses=None,
    warm_batches=0,
    **settings,
) -> loop.Job:
    @jax.jit
    def step(state, batch):
        wrong = jnp.where(bad, state["bad_steps"] + 1, 0)
        new = {
            **state,
            "step": state["step"] + 1,
            "bad_steps": wrong,
            "params": {"w": state["params"]["w"] + batch["image"].mean() * state["lr_scale"]},
        }
        return new, {"loss": jnp.where(bad, jnp.nan, 1.0), "lr": state["lr_scale"], "bad_steps": wrong}

    given = iter(losses or [1.0] * 100)
    scores = lambda weights, net_state, number: {"val_loss": next(given), "val_dice": 0.5, "positive": dict(positive)}
    mesh = meshes.make(1)
    state = jax.tree.map(lambda a: jax.device_put(a, meshes.replicated(mesh)), fresh_state())
    return loop.Job(
        workdir=workdir,
        state=state,
        storage=Storage(),
        step=Program(step),
        stream=Stream,
        validate=scores,
        grid="16 x 16",
        warm=lambda state, batch, number: {**state, "skipped": state["skipped"] + 1},
        warm_batches=warm_batches,
        checkpoints=Checkpoints(workdir / "checkpoints", best_mode="min"),
        plateau=plateau,
        mesh=mesh,
        steps_per_epoch=3,
        epochs=epochs,
        images_per_step=2,
        criterion=criterion,
        settings=types.SimpleNamespace(**{**SETTINGS, **settings}),
        kept=Kept({}),
    )


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path)
    yield log
    log.close()


def test_the_alarm_rings_when_nothing_but_background_is_predicted_again_and_again(tmp_path, log, capsys):
    loop.run(job(tmp_path, positive=[("a", 0)]), log)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
    assert len(lines) == 3 and "only background in 2 validations" in lines[0]  # after epochs 2, 3 and 4


def test_the_alarm_rings_for_a_class_that_is_never_predicted(tmp_path, log, capsys):
    loop.run(job(tmp_path, positive=[("a", 5), ("b", 0)]), log)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
    assert len(lines) == 3 and "never predicted, though the masks hold it" in lines[0] and "b (2)" in lines[0]


def test_statistics_are_warmed_once_before_the_first_step_and_the_stream_begins_anew(tmp_path, log):
    first = job(tmp_path, epochs=2, warm_batches=2)
    plain = job(tmp_path / "plain", epochs=2)
    loop.run(first, log)
    loop.run(plain, log)
    ours, theirs = (j.checkpoints.restore(fresh_state())[0] for j in (first, plain))
    assert int(ours["skipped"]) == 2 and int(theirs["skipped"]) == 0
    assert (np.asarray(ours["params"]["w"]) == np.asarray(theirs["params"]["w"])).all()
    again = job(tmp_path, epochs=3, warm_batches=2)  # a resumed run is not warmed up again
    loop.run(again, log)
    assert int(again.checkpoints.restore(fresh_state())[0]["skipped"]) == 2


def test_no_alarm_while_something_is_predicted(tmp_path, log, capsys):
    loop.run(job(tmp_path), log)
    assert "ALARM" not in capsys.readouterr().out


@pytest.mark.fault("F21")
def test_too_many_non_finite_steps_in_a_row_stop_the_run_and_name_the_cases_of_the_last(tmp_path, log, capsys):
    work = job(tmp_path, bad=True)
    work.cases = lambda rows: [f"case{row // 2}" for row in rows]
    with pytest.raises(NonFiniteError, match="3 steps in a row .* last at step 3 with images of case5, case6;"):
        loop.run(work, log)
    assert "step 2 with images of case2, case3: loss or gradient is NaN" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_is_never_to_stop_for_non_finite_steps_reaches_its_end(tmp_path, log):
    assert not loop.run(job(tmp_path, epochs=2, bad=True, stop_nonfinite=0), log)
    assert len(list((tmp_path / "checkpoints").iterdir()))


@pytest.mark.parametrize("ending", ["done", "error", "interrupt"])
def test_whatever_ends_a_run_leaves_no_signal_handler_watchdog_or_listener_behind(tmp_path, log, ending, monkeypatch):
    before, handler = monitoring.get_event_duration_listeners(), signal.getsignal(signal.SIGTERM)
    work = job(tmp_path, bad=ending == "error", watchdog=1)
    if ending == "interrupt":
        monkeypatch.setattr(work, "validate", lambda *_: signal.raise_signal(signal.SIGINT))
    of_the_tests = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a process of its own
    try:
        with contextlib.suppress(NonFiniteError, KeyboardInterrupt):
            loop.run(work, log)
    finally:
        signal.signal(signal.SIGINT, of_the_tests)
    assert signal.getsignal(signal.SIGTERM) is handler and monitoring.get_event_duration_listeners() == before
    for thread in [t for t in threading.enumerate() if t.name == "watchdog"]:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("epoch", [1, 2, 4])
@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.fault("F11")
def test_sigterm_in_a_validation_saves_first_and_the_next_start_makes_it(tmp_path, log, epoch, swallowed):
    reference, work, again = (
        job(tmp_path / name, losses=[4.0, 3.0, 2.0, 1.0][skip:]) for name, skip in (("whole", 0), ("cut", 0), ("cut", epoch - 1))
    )
    loop.run(reference, Log(tmp_path / "whole"))
    validate, calls = work.validate, []

    def stopped(*arguments):
        calls.append(arguments)
        scores = validate(*arguments)
        if len(calls) == epoch:
            with contextlib.suppress(BaseException) if swallowed else contextlib.nullcontext():
                signal.raise_signal(signal.SIGTERM)
        return scores

    work.validate = stopped
    assert loop.run(work, log) == loop.PREEMPTED and work.checkpoints.latest() == 3 * epoch
    assert loop.run(again, log) is None
    ends = [j.checkpoints.restore(fresh_state()) for j in (reference, again)]
    assert ends[0][1:] == ends[1][1:] and reference.checkpoints.best_step() == again.checkpoints.best_step()
    np.testing.assert_array_equal(*(end[0]["params"]["w"] for end in ends))


def test_a_save_that_runs_when_an_error_comes_is_finished(tmp_path, log, monkeypatch):
    work = job(tmp_path)
    monkeypatch.setattr(work, "step", None)

    def step(state, batch):
        work.checkpoints.save(1, state, {"rows": []})
        raise NonFiniteError("late")

    monkeypatch.setattr(loop, "_compile", lambda *_: step)
    with pytest.raises(NonFiniteError, match="late"):
        loop.run(work, log)
    assert work.checkpoints.steps() == [1]


@pytest.mark.parametrize("failing", [{3, 6}, {3, 6, 9}, {12}])
@pytest.mark.fault("F14", "F15")
def test_a_failed_save_is_said_and_tried_again_and_the_third_in_a_row_or_the_last_ends_the_run(
    tmp_path, log, monkeypatch, capsys, failing
):
    work, write = job(tmp_path), steps.write

    def full(folder, step, *arguments, **options):
        if step in failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(folder, step, *arguments, **options)

    monkeypatch.setattr(steps, "write", full)
    # the loop is faster than a disk: a save that failed is seen at the next step
    monkeypatch.setattr(work.checkpoints, "poll", lambda: work.checkpoints.close())
    survives = len(failing) == 2
    with contextlib.nullcontext() if survives else pytest.raises(StorageError, match="checkpoint (9|12) was not written"):
        loop.run(work, log)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
    assert len(lines) == min(len(failing), 2) * (failing != {12}) and all("next save tries again" in line for line in lines)
    assert work.checkpoints.steps() == {2: [9, 12], 3: [], 1: [3, 6, 9]}[len(failing)]


def test_the_plateau_lowers_the_rate_and_survives_a_resume(tmp_path, log):
    losses = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    make = lambda epochs, given: job(tmp_path, epochs=epochs, losses=given, plateau=Plateau(lr=1.0, factor=0.5, patience=1))
    whole = tmp_path / "whole"
    whole.mkdir()
    reference = job(whole, epochs=6, losses=losses, plateau=Plateau(lr=1.0, factor=0.5, patience=1))
    loop.run(reference, log)
    loop.run(make(2, losses[:2]), log)
    loop.run(make(6, losses[2:]), log)
    weights = [load_weights(folder / "checkpoints" / "18")[0]["w"] for folder in (whole, tmp_path)]
    np.testing.assert_array_equal(*weights)
    assert weights[0][0] < sum(range(18))  # the rate was lowered on the way


def test_the_best_checkpoint_is_that_of_the_criterion(tmp_path, log):
    work = job(tmp_path, losses=[3.0, 1.0, 2.0, 4.0])
    loop.run(work, log)
    assert work.checkpoints.best_step() == 6 and load_weights(tmp_path)[2]["rows"][-1]["epoch"] == 2


def test_a_finished_run_has_every_epoch_in_its_table(tmp_path, log):
    loop.run(job(tmp_path, eval_every=2), log)
    lines = (tmp_path / "epochs.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0] == "epoch,step,lr,train_loss,val_loss,val_dice,val_grid"
    assert [line.split(",")[-1] for line in lines[1:]] == ["", "16 x 16", "", "16 x 16"]


def test_the_figures_of_a_validation_name_their_grid(tmp_path, log, capsys, monkeypatch):
    told = {}
    monkeypatch.setattr(log, "scalars", lambda step, values: told.update(values))
    loop.run(job(tmp_path, epochs=1), log)
    assert "val_loss 1.0000 val_dice 0.5000 on the prepared grid, 16 x 16" in capsys.readouterr().out
    assert told["val/dice on 16 x 16"] == 0.5
