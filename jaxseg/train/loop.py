"""The training loop, to be read from top to bottom. `setup` decides all details; this file executes them."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.checkpoint import Checkpoints
from jaxseg.ops import space
from jaxseg.programs.kept import Kept
from jaxseg.programs.program import Program
from jaxseg.train import mesh as meshes
from jaxseg.train.log import CompileCounter, Log
from jaxseg.train.processes import agree
from jaxseg.train.processes.interrupt import PREEMPTED, Preemption, Stopped, fault
from jaxseg.train.state import Storage, TrainState, evaluated, place
from jaxseg.types import Batch, NonFiniteError, StorageError
from jaxseg.utils import output, turns
from jaxseg.utils.clock import Meter, Watchdog
from jaxseg.utils.command import check_interrupt

Watch = Callable[[list[dict]], object]
SEVERAL = 600.0  # seconds of train.watchdog where several processes train and none are given
SHOWN_CASES = 8  # in the line of a step whose update is skipped
MOST_FAILED_SAVES = 3  # in a row
SHOWN = 24  # scores in the line of an epoch


@dataclasses.dataclass
class Job:
    """Everything that a run needs, built by `setup`.

    Attributes:
      workdir: the run's folder.
      state: a fresh train state, as numpy arrays; `run` takes it and leaves None.
      storage: how `step` and `warm` store the state's small arrays.
      step: jitted (state, batch) -> (state, metrics).
      warm: jitted (state, batch, number) -> state, for BatchNorm's statistics before the first step.
      warm_batches: number of batches for `warm`; 0: none.
      stream: first batch number -> endless iterator of host batches (a context manager).
      validate: (weights, net state, step) -> {"val_loss", "val_dice", ..., "positive": {class: pixels predicted}}, see
        `evaluate.validation.figures`; None without a validation split.
      grid: size of the prepared examples on which `validate` scores, as text ("128 x 128").
      checkpoints: the run's checkpoint folder.
      plateau: host-side learning-rate reduction, or None; `update(value) -> factor`, `state()`, `load(state)`.
      mesh: devices.
      steps_per_epoch, epochs: length of the run.
      images_per_step: number of examples per update.
      criterion: "val_loss", "val_dice", "val_recall" or "last".
      settings: the config's `train` group: log_every, eval_every, save_every, alarm_after, stop_nonfinite, watchdog.
      kept: where the compiled step is looked for and kept.
      cases: row numbers ("index" of a batch) -> names of their cases, to name them where an update is skipped; None: unnamed.
    """

    workdir: Path
    state: TrainState | None
    storage: Storage
    step: Callable[[TrainState, Batch], tuple[TrainState, dict]]
    stream: Callable[[int], Any]
    warm: Program
    warm_batches: int
    validate: Callable[[dict, dict, int], dict[str, float]] | None
    grid: str
    checkpoints: Checkpoints
    plateau: Any
    mesh: Any
    steps_per_epoch: int
    epochs: int
    images_per_step: int
    criterion: str
    settings: Any
    kept: Kept
    cases: Callable[[list[int]], list[str]] | None = None


@dataclasses.dataclass
class Progress:
    """The host's part of the state of a run; checkpoints store it beside the arrays."""

    next_batch: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)  # one per finished epoch
    loss_sum: float = 0.0  # of the running epoch
    loss_count: int = 0
    empty_validations: int = 0  # in a row
    unpredicted: dict[str, int] = dataclasses.field(default_factory=dict)  # class: validations in a row without a pixel of it
    plateau: dict | None = None
    lr: float = 0.0  # of the last step of the last epoch


def run(job: Job, log: Log, watch: Watch | None = None) -> int | None:
    """Train until the last epoch, or until SIGTERM.

    Args:
      watch: called with the rows of all epochs so far, at the start and after each epoch is saved; what it raises ends the run.
    Returns:
      None after the last epoch, the exit code `PREEMPTED` after SIGTERM.
    Raises:
      NonFiniteError: the gradient was NaN or Inf in too many steps in a row.
      StorageError: MOST_FAILED_SAVES checkpoints in a row, or the last one, could not be written.
    """
    guard = watchdog_of(job.settings.watchdog, job.workdir)
    with CompileCounter() as compiles, Preemption() as preemption, job.checkpoints, guard as watchdog:
        code = _train(job, log, preemption, watchdog, watch)
    if code is None:
        log.say(f"compilations: {compiles.count} ({compiles.seconds:.1f} s)")
    return code


def watchdog_of(seconds: int | None, folder: Path) -> Watchdog:
    """Return the watchdog that config.train.watchdog asks for."""
    several = SEVERAL if jax.process_count() > 1 else 0.0
    return Watchdog(several if seconds is None else seconds, folder)


def _train(job: Job, log: Log, preemption: Preemption, watchdog: Watchdog, watch: Watch | None) -> int | None:
    """Run the steps of `run`; `run` then cleans up signal handler, watchdog, compile counter and a save in progress."""
    s, total = job.settings, job.epochs * job.steps_per_epoch

    # 1. Resume: arrays, then the host's memory of the run (data position, epoch rows, plateau).
    state, progress = _resume(job, log)
    if job.storage.shared is not None:
        log.say(job.storage.describe(state))
    job.state, state = None, job.storage.place(state, job.mesh)
    start = progress.next_batch
    meter, begin = Meter(total, start=start), time.perf_counter()
    compiled, pending = None, None
    log.epochs(progress.rows)
    if watch:
        watch(progress.rows)
    if start == 0 and job.warm_batches:
        state = _warmed(job, state, log)
    if start and start % job.steps_per_epoch == 0 and len(progress.rows) < start // job.steps_per_epoch:
        log.say("running the validation that was interrupted")
        try:
            with turns.at_each(watchdog.stretch):
                state = _epoch(job, log, state, progress, preemption)
        except Stopped:
            return _leave(job, log, start, watchdog)

    with job.stream(start) as batches, output.working("training", total, done=start) as advance:
        for number in range(start, total):
            # 2. One step. The previous step's metrics are read while this one runs.
            fault(number, "before_next")
            check_interrupt()
            with meter.waiting():
                batch = meshes.put(next(batches), job.mesh)
            if compiled is None:
                compiled = _compile(job, state, batch, log)
            state, metrics = compiled(state, batch)
            if pending is not None:
                _account(pending, progress, job, log)
            pending = (number, metrics, batch)
            if number == start:
                jax.block_until_ready(metrics)
                log.say(f"first step {time.perf_counter() - begin:.1f} s after the start of the loop")
            meter.step(job.images_per_step)
            advance(1, f"epoch {number // job.steps_per_epoch + 1}/{job.epochs}")
            _poll(job, log)
            watchdog.tick()
            fault(number + 1, "after_step")

            # 3. A progress line.
            if (number + 1) % s.log_every == 0 or number + 1 == total:
                _account(pending, progress, job, log)
                pending = None
                _line(number + 1, metrics, meter, job, log)
            stop = preemption.reached()

            # 4. The end of an epoch: validate, compare with the best, save.
            last_of_epoch = (number + 1) % job.steps_per_epoch == 0
            if last_of_epoch or stop:
                if pending is not None:
                    _account(pending, progress, job, log)
                    pending = None
                progress.next_batch = number + 1
            if last_of_epoch and not stop:
                progress.lr = float(metrics["lr"])
                watchdog.stretch()
                try:
                    with meter.paused(), turns.at_each(watchdog.stretch):
                        state = _epoch(job, log, state, progress, preemption)
                except Stopped:  # the next start makes the validation
                    stop = True
                if watch and not stop:
                    watch(progress.rows)

            # 5. Asked to stop: save where we stand and leave.
            if stop:
                progress.lr = float(metrics["lr"])
                watchdog.pause()
                job.checkpoints.save(number + 1, job.storage.part(state), _info(progress, state))
                return _leave(job, log, number + 1, watchdog)
    job.checkpoints.wait()
    if preemption.asked:
        return _leave(job, log, total, watchdog)
    return None


def _poll(job: Job, log: Log) -> None:
    """Look whether a save has failed in the background; training goes on without it, but not for ever."""
    try:
        job.checkpoints.poll()
    except StorageError as error:
        failed = job.checkpoints.failed_in_a_row
        if failed >= MOST_FAILED_SAVES or not job.workdir.is_dir():
            raise StorageError(f"{failed} save{'s' * (failed > 1)} in a row failed: {error}") from error
        log.alarm(f"{error} ({failed} failed in a row; after {MOST_FAILED_SAVES} the run ends)")


def _leave(job: Job, log: Log, step: int, watchdog: Watchdog) -> int:
    watchdog.pause()
    job.checkpoints.wait()
    log.say(f"stopped by SIGTERM at step {step}, after saving; run the same command again to resume")
    return PREEMPTED


def _warmed(job: Job, state: TrainState, log: Log) -> TrainState:
    """Update BatchNorm's statistics on the first batches before any weight changes; then the training stream starts again."""
    warm = job.warm
    with job.stream(0) as batches:
        for number in range(job.warm_batches):
            batch = meshes.put(next(batches), job.mesh)
            if not number and jax.process_count() > 1:  # compiled first, as the step is
                warm = job.warm.lower(state, batch, number).compile()
                agree.all_here("the warm-up is compiled")
            state = warm(state, batch, number)
    log.say(f"BatchNorm statistics warmed up over {job.warm_batches} batches")
    return state


def _resume(job: Job, log: Log) -> tuple[TrainState, Progress]:
    if not job.checkpoints.has_any():
        return job.state, Progress()
    state, info, step = job.checkpoints.restore(job.state)
    progress = Progress(**{k: v for k, v in info.items() if k != "evaluated"})
    if job.plateau and progress.plateau:
        job.plateau.load(progress.plateau)
    log.event("resumed", step=step)
    log.say(f"resumed from step {step} (epoch {step // job.steps_per_epoch} of {job.epochs})")
    return state, progress


def _compile(job: Job, state: TrainState, batch: Batch, log: Log):
    begin = time.perf_counter()
    with output.working("compiling the training step"):
        with space.noting_whole() as rows:
            compiled, found, tracing = job.kept.ready(job.step, state, batch)
    if rows:
        listed = ", ".join(map(str, sorted(rows, reverse=True)))
        log.say(
            f"config.mesh.space={job.mesh.shape[space.AXIS]}: every device computes levels of {listed} rows whole; to "
            "share more of them, choose a first number of config.data.size that is a multiple of devices x 2^levels"
        )
    memory = compiled.memory_analysis()
    used = 0 if memory is None else memory.temp_size_in_bytes + memory.argument_size_in_bytes
    size = f", {used / 2**20:.0f} MiB of device memory by XLA's estimate" if used else ""
    seconds = time.perf_counter() - begin
    how = (
        f"read in {seconds:.1f} s (an earlier start compiled it)"
        if found
        else f"compiled in {seconds:.1f} s (tracing {tracing:.1f} s)"
    )
    log.say(f"step {how}{size}")
    log.event("compiled", seconds=seconds, bytes=used)
    agree.all_here("the step is compiled")  # gloo ends a run where one comes 30 s later than another to the first sum over all
    return compiled


def _account(pending: tuple[int, dict, Batch], progress: Progress, job: Job, log: Log) -> None:
    """Read one step's metrics: add the loss to the epoch's mean, and check for non-finite gradients."""
    number, metrics, batch = pending
    loss, bad = float(metrics["loss"]), int(metrics["bad_steps"])
    if math.isfinite(loss):
        progress.loss_sum += loss
        progress.loss_count += 1
    if bad:
        where = f"step {number + 1}{_images_of(batch, job)}"
        log.say(f"{where}: loss or gradient is NaN or Inf, update skipped ({bad} in a row)")
    if bad >= job.settings.stop_nonfinite > 0:
        raise NonFiniteError(
            f"loss or gradient was NaN or Inf in {bad} steps in a row (config.train.stop_nonfinite="
            f"{job.settings.stop_nonfinite}), last at {where}; the last checkpoint is intact: lower "
            "config.optim.lr, set config.optim.clip_norm=1, or set config.train.dtype=float32"
        )


def _images_of(batch: Batch, job: Job) -> str:
    """Name the cases whose images this process has in a batch, some of them if there are many."""
    if job.cases is None:
        return ""
    rows = {int(i) for shard in batch["index"].addressable_shards for i in np.asarray(shard.data).reshape(-1)}
    names = list(dict.fromkeys(job.cases(sorted(rows))))
    more = f" and {len(names) - SHOWN_CASES} more" if len(names) > SHOWN_CASES else ""
    return f" with images of {', '.join(names[:SHOWN_CASES])}{more}" if names else ""


def _line(step: int, metrics: dict, meter: Meter, job: Job, log: Log) -> None:
    values = {k: float(v) for k, v in metrics.items()}
    rates = meter.read()
    log.say(
        f"step {step} epoch {(step - 1) // job.steps_per_epoch + 1}/{job.epochs} loss {values['loss']:.4f} "
        f"lr {values['lr']:.2e}, {rates}"
    )
    speed = {"images_per_second": rates.images_per_second, "input_wait": rates.input_share}
    log.event("step", step=step, epoch=(step - 1) // job.steps_per_epoch + 1, epochs=job.epochs, **values, **speed)
    log.scalars(step, {f"train/{k}": v for k, v in values.items()} | {f"speed/{k}": v for k, v in speed.items()})


def _info(progress: Progress, state: TrainState) -> dict:
    """Return the JSON part of a checkpoint: the host's progress, and which weights are evaluated."""
    return dataclasses.asdict(progress) | {"evaluated": "ema" if state["ema"] else "params"}


def _saves(job: Job, epoch: int) -> bool:
    return epoch % job.settings.save_every == 0 or epoch == job.epochs


def _epoch(job: Job, log: Log, state: TrainState, progress: Progress, preemption: Preemption) -> TrainState:
    """End an epoch: validate, update the plateau schedule, warn of empty predictions, write the epoch's row, save.

    Raises:
      Stopped: SIGTERM came during the validation; `progress` is as it was before.
    """
    step = progress.next_batch
    epoch = step // job.steps_per_epoch
    row = {"epoch": epoch, "step": step, "lr": progress.lr, "train_loss": progress.loss_sum / max(progress.loss_count, 1)}
    criterion = None
    if job.validate is None:
        log.say(f"epoch {epoch}/{job.epochs} train_loss {row['train_loss']:.4f}")
    elif epoch % job.settings.eval_every == 0 or epoch == job.epochs:
        fault(step, "before_eval")
        with preemption.at_once():
            parted = job.storage.part(state)
            weights = place((evaluated(parted), parted["state"]), meshes.replicated(job.mesh))
            scores = dict(job.validate(*weights, step))
            fault(step, "in_eval")
        positive = scores.pop("positive")
        row |= scores | {"val_grid": job.grid}
        log.scalars(step, {f"val/{k.removeprefix('val_')} on {job.grid}": v for k, v in scores.items()})
        log.say(
            f"epoch {epoch}/{job.epochs} train_loss {row['train_loss']:.4f} "
            + " ".join(f"{k} {v:.4f}" for k, v in list(scores.items())[:SHOWN])
            + (f" and {len(scores) - SHOWN} more in epochs.csv" if len(scores) > SHOWN else "")
            + f" on the prepared grid, {job.grid}"
        )
        _watch_classes(positive, progress, job, log)
        if job.criterion != "last":
            criterion = scores[job.criterion]
        if job.plateau:
            factor = job.plateau.update(criterion)
            if factor != 1.0:
                state = {**state, "lr_scale": state["lr_scale"] * factor}
                log.say(f"learning rate multiplied by {factor:g}: {job.criterion} has not improved")
            progress.plateau = job.plateau.state()
    progress.loss_sum, progress.loss_count = 0.0, 0
    progress.rows = _joined(progress.rows, row)
    log.event("epoch", epochs=job.epochs, **row)
    log.epochs(progress.rows)
    if _saves(job, epoch):
        fault(step, "before_save")
        job.checkpoints.save(step, job.storage.part(state), _info(progress, state), metric=criterion)
        fault(step, "after_save")
    return state


def _watch_classes(positive: dict[str, int], progress: Progress, job: Job, log: Log) -> None:
    """Raise an alarm when only background, or a class that the masks hold not at all, was predicted again and again."""
    progress.empty_validations = 0 if any(positive.values()) else progress.empty_validations + 1
    progress.unpredicted = {name: progress.unpredicted.get(name, 0) + 1 for name, found in positive.items() if not found}
    limit = job.settings.alarm_after
    if progress.empty_validations >= limit > 0:
        log.alarm(
            f"the network has predicted only background in {progress.empty_validations} validations in a row; try a "
            "loss that combines Dice and cross-entropy, a weight for the foreground, a lower learning rate, or more warm-up"
        )
        return
    missing = [f"{name} ({count})" for name, count in progress.unpredicted.items() if count >= limit > 0]
    if missing:
        log.alarm(
            f"never predicted, though the masks hold it (validations in a row): {', '.join(missing)}; try class weights, a loss "
            "that combines Dice and cross-entropy, or more training examples with it"
        )


def _joined(rows: list[dict], row: dict) -> list[dict]:
    """Give all rows the same columns: an epoch without validation leaves them empty."""
    columns = list(dict.fromkeys([*(k for r in rows for k in r), *row]))
    return [{c: r.get(c, "") for c in columns} for r in [*rows, row]]
