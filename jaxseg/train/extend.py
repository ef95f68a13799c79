"""Describe in one line the effects of training a finished run for more epochs."""

from jaxseg.train import setup
from jaxseg.train.loop import Job


def describe(config, before: int, job: Job) -> str:
    """Return a line about the new length, the learning rate and the best checkpoint.

    Args:
      config: the run's config with the new number of epochs.
      before: the old config.train.epochs.
      job: built from `config`.
    """
    step, length = job.checkpoints.latest() or 0, job.steps_per_epoch
    old = config.copy_and_resolve_references().unlock()
    old.train.epochs = before
    rates = [config.optim.lr * float(setup.build_schedule(c, length)[0](step)) for c in (old, config)]
    rate = (
        f"the learning rate at step {step} stays {rates[1]:.3g}"
        if rates[0] == rates[1]
        else f"the learning rate at step {step} is {rates[1]:.3g} instead of {rates[0]:.3g}"
    )
    plateau = ", times the factor of the plateau schedule" if job.plateau else ""
    best = job.checkpoints.best_step()
    kept = (
        f"; step {best} stays the best checkpoint (by {job.criterion}) until a later epoch is better"
        if best is not None and job.criterion != "last"
        else ""
    )
    return (
        f"extended from {before} to {job.epochs} epochs: schedule {config.schedule.name!r} is one of {job.epochs * length} steps "
        f"instead of {before * length}, {rate}{plateau}{kept}"
    )
