"""Bayesian optimisation of the class weights of the cross-entropy: every trial is a whole run in its own folder.

The weight of the background is 1, because only ratios matter (`losses.pointwise.cross_entropy` divides by the sum of weights);
the others are drawn on a logarithmic scale by a tree-structured Parzen estimator (Bergstra et al. 2011, in optuna). The BraTS
2-D project reports one row of such a search; its search space, objective and result are not public.

    <folder>/search.db    the study (sqlite): start the same command again to resume it, with any interrupted trial
    <folder>/trials.csv   number, state, folder, weights, objective
    <folder>/000, 001...  the runs

The next weights depend only on the random seed and the finished trials, so that a resumed search draws the same weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg import checkpoint
from jaxseg.data.datasets import selection
from jaxseg.metrics.summarize import write_csv
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, MismatchError, NonFiniteError

STARTUP = 5  # trials at random before the estimator draws


def search(
    config,
    folder: Path,
    run: Callable[[Any, Path], int | None],
    score: Callable[[Path], float],
    starts: Sequence[Sequence[float]] = (),
    say: Callable[[str], None] = print,
) -> int | None:
    """Try class weights until config.search.trials runs are finished, and print the best as an option of the command line.

    Args:
      config: a resolved tree with a loss term cross_entropy; its option class_weights is the starting point.
      folder: the folder of the search, created if it does not exist.
      run: trains a config in a folder; returns None, or the exit code of a run that was stopped and can be resumed.
      score: folder of a finished run -> the objective's value.
      starts: further weights to try first, background first, in any scale.
      say: called with one line of text per trial.
    Returns:
      None, or the exit code of a run that was stopped.
    Raises:
      ConfigError: optuna is not installed, or the config has no class weights.
      MismatchError: the folder holds a search with another search space or objective.
    """
    own, optuna, s = weights_of(config), _optuna(), config.search
    names = tuple(_named(own[1:]))
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder.absolute() / 'search.db'}",
        study_name="class_weights",
        direction="maximize",
        load_if_exists=True,
    )
    _same(study, {"classes": len(own), "low": s.low, "high": s.high, "objective": s.objective}, folder)
    bounded = lambda weights: [min(max(w / weights[0], s.low), s.high) for w in weights[1:]]
    if not study.trials:
        for weights in (own, [1.0] * len(own), *starts):
            study.enqueue_trial(_named(bounded(weights)), skip_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # interrupted: resumed in its folder
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    while (done := len(study.get_trials(states=finished))) < s.trials:
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + done, n_startup_trials=STARTUP)
        trial = study.ask()
        weights = (1.0, *(trial.suggest_float(name, s.low, s.high, log=True) for name in names))
        place = trial.user_attrs["folder"] if "folder" in trial.user_attrs else f"{done:03d}"
        trial.set_user_attr("folder", place)
        try:
            code = run(weighted(config, weights), folder / place)
        except NonFiniteError as error:
            say(f"trial {done + 1}: {error}")
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            if code:
                return code
            value = score(folder / place)
            study.tell(trial, value)
            say(f"trial {done + 1} of {s.trials}: weights {_written(weights)} {s.objective} {value:.4f}")
        _write_table(study, finished, s.objective, folder)
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise NonFiniteError(f"none of {s.trials} trials ended with a finite score; lower config.optim.lr")
    best = max(complete, key=lambda t: t.value)
    say(
        f"best {s.objective} {best.value:.4f} in {folder / best.user_attrs['folder']}; train with these weights by\n"
        f'  --config.loss.options.cross_entropy.class_weights="{_written((1.0, *(best.params[name] for name in names)))}"'
    )
    return None


def weights_of(config) -> tuple[float, ...]:
    """Return the class weights of a config, background first.

    Raises:
      ConfigError: the config has no class weights.
    """
    options = config.loss.options.to_dict()
    named = "cross_entropy" in [name for name, _ in config.loss.terms] and "cross_entropy" in options
    if not named or "class_weights" not in options["cross_entropy"]:
        raise ConfigError(
            "--mode=search optimises the class weights of the cross-entropy, but this config has none; add the term "
            "'cross_entropy' to config.loss.terms, and set config.loss.options['cross_entropy']['class_weights'] to one "
            "number for each class, background first (as in configs/brats2d.py:wcce)"
        )
    weights = tuple(options["cross_entropy"]["class_weights"])
    if len(weights) < 2 or min(weights) <= 0:
        raise ConfigError(
            f"config.loss.options.cross_entropy.class_weights={weights}: must be two or more numbers above 0, "
            "background first, as the starting point of the search"
        )
    return weights


def weighted(config, weights: tuple[float, ...]):
    """Return the config with other class weights."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.loss.options.cross_entropy.class_weights = tuple(float(w) for w in weights)
    return copy.lock()


def score_of(folder: Path, objective: str) -> float:
    """Return the validation score of a finished run's best checkpoint."""
    return float(checkpoint.load_weights(folder)[2]["rows"][-1][objective])


def balanced(config, folder: Path) -> list[tuple[float, ...]]:
    """Return class weights by the rarity of the classes in the training slices, as starting points; none for volumes."""
    if config.data.rank != 2:
        return []
    data = setup.load_data(config, Log(folder, quiet=True), folder)
    return [selection.class_weights(data.store, data.rows["train"], rule) for rule in ("root", "inverse")]


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--mode=search needs the package optuna; run: pip install 'optuna>=4'") from error
    return optuna


def _same(study, facts: dict, folder: Path) -> None:
    for key, value in facts.items():
        if key in study.user_attrs and study.user_attrs[key] != value:
            raise MismatchError(
                f"{folder} holds a search with {key} {study.user_attrs[key]!r}, now {value!r}; give another "
                "--workdir, or set the old value to continue"
            )
        study.set_user_attr(key, value)


def _named(weights: Sequence[float]) -> dict[str, float]:
    return {f"weight_{k}": w for k, w in enumerate(weights, 1)}


def _written(weights: Sequence[float]) -> str:
    return f"({', '.join(f'{w:.4g}' for w in weights)})"


def _write_table(study, finished: tuple, objective: str, folder: Path) -> None:
    """trials.csv, one row a finished trial."""
    write_csv(
        folder / "trials.csv",
        [
            {
                "trial": t.number,
                "state": t.state.name.lower(),
                "folder": t.user_attrs["folder"],
                **t.params,
                objective: "" if t.value is None else t.value,
            }
            for t in study.get_trials(states=finished)
        ],
    )
