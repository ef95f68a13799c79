"""Bayesian optimisation of cross-entropy's class weights: every trial is a whole run in a folder of its own.

The background's weight is 1, because only ratios count (`losses.pointwise.cross_entropy` divides by the weights of what is
there); the others are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011, in optuna) on a logarithmic scale.
The BraTS 2-D project prints one row of such a search; its space, objective and result are not public.

    <folder>/search.db    the study, in sqlite: start the same command again to resume it, an interrupted trial included
    <folder>/trials.csv   number, state, folder, weights, objective
    <folder>/000, 001...  the runs

Which weights come next depends on the seed and the finished trials alone, so that a search that was stopped draws the same.
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
      config: resolved, with a term cross_entropy whose option class_weights is written down: that is where it starts.
      folder: of the search, made if absent.
      run: trains a config in a folder; returns None, or the exit code of a run that was stopped and can be resumed.
      score: folder of a finished run -> the objective.
      starts: further weights to try first, background first, any scale.
      say: called with one line per trial.
    Returns:
      None, or what `run` returned for a run that was stopped.
    Raises:
      ConfigError: optuna is not installed, or the config has no class weights to search.
      MismatchError: the folder holds a search of another space or objective.
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
        raise NonFiniteError(f"none of {s.trials} trials ended with finite figures; lower config.optim.lr")
    best = max(complete, key=lambda t: t.value)
    say(
        f"best {s.objective} {best.value:.4f} in {folder / best.user_attrs['folder']}; train with it by\n"
        f'  --config.loss.options.cross_entropy.class_weights="{_written((1.0, *(best.params[name] for name in names)))}"'
    )
    return None


def weights_of(config) -> tuple[float, ...]:
    """The class weights that a config writes down, background first.

    Raises:
      ConfigError: it has none.
    """
    options = config.loss.options.to_dict()
    named = "cross_entropy" in [name for name, _ in config.loss.terms] and "cross_entropy" in options
    if not named or "class_weights" not in options["cross_entropy"]:
        raise ConfigError(
            "--mode=search finds the class weights of cross-entropy, and this config has none; give "
            "config.loss.terms a term 'cross_entropy', and config.loss.options['cross_entropy']['class_weights'] a "
            "number for each class, background first (configs/brats2d.py:wcce does)"
        )
    weights = tuple(options["cross_entropy"]["class_weights"])
    if len(weights) < 2 or min(weights) <= 0:
        raise ConfigError(
            f"config.loss.options.cross_entropy.class_weights={weights}: a search starts from two numbers or more, "
            "each above 0, background first"
        )
    return weights


def weighted(config, weights: tuple[float, ...]):
    """The config with other class weights."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.loss.options.cross_entropy.class_weights = tuple(float(w) for w in weights)
    return copy.lock()


def score_of(folder: Path, objective: str) -> float:
    """The validation figure of a finished run's chosen checkpoint."""
    return float(checkpoint.load_weights(folder)[2]["rows"][-1][objective])


def balanced(config, folder: Path) -> list[tuple[float, ...]]:
    """Class weights by the rarity of the classes in the training slices, the starting points of the search; none for volumes."""
    if config.data.rank != 2:
        return []
    data = setup.load_data(config, Log(folder, quiet=True), folder)
    return [selection.class_weights(data.store, data.rows["train"], rule) for rule in ("root", "inverse")]


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--mode=search needs the package optuna; pip install 'optuna>=4'") from error
    return optuna


def _same(study, facts: dict, folder: Path) -> None:
    for key, value in facts.items():
        if key in study.user_attrs and study.user_attrs[key] != value:
            raise MismatchError(
                f"{folder} holds a search with {key} {study.user_attrs[key]!r}, now {value!r}; give another "
                "--workdir, or the old value to continue"
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
