"""--mode=search: Bayesian optimisation of any keys of a config; every trial is a run in its own folder.

Values are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011, in optuna) over config.search.space (`space`). The
BraTS 2-D project reports one row of such a search, of class weights; its search space, objective and result are not public.

    <folder>/search.db      the study (sqlite): start the same command again to resume it, with any interrupted trial
    <folder>/trials.csv     number, state, folder, values, objective
    <folder>/report.html    the history of the search (`reports.search`), written after every trial
    <folder>/000, 001...    the runs

The next values depend only on the random seed and the finished trials, so that a resumed search draws the same ones. With
config.search.prune a trial ends after an epoch in which its best validation so far lies below the median of the earlier
trials' at that epoch, once 5 trials are finished and a fifth of the epochs is over.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg import checkpoint
from jaxseg.config import NEUTRAL, as_dict, flatten
from jaxseg.data.datasets import selection
from jaxseg.experiments.space import WEIGHTS, Dimension, changed, space_of, starts_of
from jaxseg.metrics.summarize import write_csv
from jaxseg.reports import search as pages
from jaxseg.reports.names import without_names
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, MismatchError, NonFiniteError
from jaxseg.utils import files, output

STARTUP = 5  # trials at random before the estimator draws, and complete ones before any is pruned
FAILS = (
    ConfigError,
    NonFiniteError,
    jax.errors.JaxRuntimeError,
)  # of a trial alone: values that cannot work, or too little memory
Watch = Callable[[Sequence[Mapping[str, Any]]], None]


def search(
    config,
    folder: Path,
    run: Callable[[Any, Path, Watch], int | None],
    score: Callable[[Path], float],
    starts: Sequence[Sequence[float]] = (),
    say: Callable[[str], None] = print,
) -> int | None:
    """Try values until config.search.trials runs are finished, and print the best as options of the command line.

    Args:
      config: a resolved tree with a search.space, or with class weights of the cross-entropy.
      folder: the folder of the search, created if it does not exist.
      run: trains a config in a folder and calls the third argument with the rows of all epochs after each epoch, which may raise
        to stop the trial; returns None, or the exit code of a run that was stopped and can be resumed.
      score: folder of a finished run -> the objective's value.
      starts: for class weights: further weights to try first, background first, in any scale.
      say: called with one line of text per trial.
    Returns:
      None, or the exit code of a run that was stopped.
    Raises:
      ConfigError: optuna is not installed, or there is nothing to search.
      MismatchError: the folder holds a search of another space, objective or config.
      NonFiniteError: no trial ended with a score.
    """
    space, optuna, s = space_of(config), _optuna(), config.search
    files.make_folder(folder, f"--workdir={folder.parent}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder.absolute() / 'search.db'}",
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=math.ceil(config.train.epochs / 5)),
    )
    _same(study, config, space, folder)
    if not study.trials:
        for values in starts_of(config, space, starts):
            study.enqueue_trial(values, skip_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # interrupted: resumed in its folder
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    while (done := len(study.get_trials(states=finished))) < s.trials:
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + done, n_startup_trials=STARTUP)
        trial = study.ask()
        values = {dimension.key: dimension.drawn(trial) for dimension in space}
        place = trial.user_attrs["folder"] if "folder" in trial.user_attrs else f"{done:03d}"
        trial.set_user_attr("folder", place)
        head = f"trial {done + 1} of {s.trials}: {_written(values)}:"
        try:
            code = run(
                changed(config, values), folder / place, _watch(trial, s.objective, optuna) if s.prune else lambda rows: None
            )
        except (optuna.TrialPruned, *FAILS) as error:
            trial.set_user_attr("reason", " ".join(str(error).split())[:300])
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            pruned, reason = isinstance(error, optuna.TrialPruned), trial.user_attrs["reason"]
            say(f"{head} {'' if pruned else 'FAILED: '}{reason}")
            ended = {"status": "pruned" if pruned else "failed", "reason": reason}
        else:
            if code:
                return code
            value = score(folder / place)
            study.tell(trial, value)
            say(f"{head} {s.objective} {value:.4f}")
            ended = {"status": "finished", s.objective: value}
        output.event("trial", trial=done + 1, of=s.trials, folder=folder / place, values=values, **ended)
        _write(study, finished, config, space, folder)
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise NonFiniteError(f"none of {s.trials} trials ended with a score; the reasons are in {folder / 'trials.csv'}")
    best = max(complete, key=lambda t: t.value)
    say(f"best {s.objective} {best.value:.4f} in {folder / best.user_attrs['folder']}; train with these values by")
    chosen = {d.key: d.labels[best.params[d.key]] if d.kind == "choice" else best.params[d.key] for d in space}
    say("  " + " ".join(options(config, chosen)))
    say(f"the history is in {folder / 'report.html'}")
    output.event("search", folder=folder, best=folder / best.user_attrs["folder"], values=chosen, **{s.objective: best.value})
    return None


def options(config, values: Mapping[str, Any]) -> list[str]:
    """The options of a command line that set a trial's values; a key inside an option or a tuple is given as the whole value."""
    tree, own = flatten(changed(config, values).to_dict()), flatten(config.to_dict())
    keys = list(dict.fromkeys(next(key for key in own if path == key or path.startswith(f"{key}.")) for path in values))
    return [f'--config.{key}="{_plain(tree[key])}"' for key in keys]


def score_of(folder: Path, objective: str) -> float:
    """Return the validation score of a finished run's best checkpoint."""
    return float(checkpoint.load_weights(folder)[2]["rows"][-1][objective])


def balanced(config, folder: Path) -> list[tuple[float, ...]]:
    """Class weights by the rarity of the classes in the training slices, as starting points; none for volumes and other keys."""
    if config.data.rank != 2 or config.search.space:
        return []
    data = setup.load_data(config, Log(folder, quiet=True), folder)
    return [selection.class_weights(data.store, data.rows["train"], rule) for rule in ("root", "inverse")]


def _watch(trial, objective: str, optuna) -> Watch:
    """Report a trial's epochs, those from before an interruption included, and end it where it is worse than the median."""

    known: dict[int, float] = {}

    def watch(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if row.get(objective, "") == "" or int(row["epoch"]) in known or math.isnan(float(row[objective])):
                continue
            known[int(row["epoch"])] = float(row[objective])
            trial.report(float(row[objective]), int(row["epoch"]))
        if known and trial.should_prune():
            best = max(known.values())
            raise optuna.TrialPruned(f"pruned after epoch {rows[-1]['epoch']}: {objective} {best:.4f} is below the median there")

    return watch


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--mode=search needs the package optuna; run: pip install 'optuna>=4'") from error
    return optuna


def _same(study, config, space: Sequence[Dimension], folder: Path) -> None:
    """Refuse a study with other settings, which it stores."""
    tree = flatten(as_dict(config))
    facts = {key: repr(value) for key, value in tree.items() if key not in (*NEUTRAL, "name")}
    facts |= {"search.objective": config.search.objective, "search.space": repr([tuple(d) for d in space])}
    before = study.user_attrs.get("facts", facts)
    for key in facts:
        if before.get(key) != facts[key]:
            raise MismatchError(
                f"{folder} holds a search with {key} {before.get(key)}, now {facts[key]}; give another "
                "--workdir, or set the old value to continue"
            )
    study.set_user_attr("facts", facts)


def _written(values: Mapping[str, Any]) -> str:
    short = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)
    return ", ".join(f"{_name(key)} {short(value)}" for key, value in values.items())


def _name(key: str) -> str:
    return f"weight_{key.rpartition('.')[2]}" if key.startswith(WEIGHTS) else key


def _plain(value: Any) -> Any:
    """Return a value as it is typed; floats with as few digits as identify them."""
    return value if not isinstance(value, tuple) else f"({', '.join(repr(v) for v in value)}{',' * (len(value) == 1)})"


def _write(study, finished: tuple, config, space: Sequence[Dimension], folder: Path) -> None:
    """Write trials.csv, a row for each finished trial, and the page."""
    trials, objective = study.get_trials(states=finished), config.search.objective
    rows = [
        {
            "trial": i,
            "state": t.state.name.lower(),
            "folder": t.user_attrs["folder"],
            **{_name(d.key): t.params[d.key] for d in space},
            objective: t.value if t.state.name == "COMPLETE" else "",  # of a pruned one optuna keeps its last epoch's
            "reason": without_names(config.report.names, t.user_attrs.get("reason", "")),
        }
        for i, t in enumerate(sorted(trials, key=lambda t: t.user_attrs["folder"]), 1)
    ]
    write_csv(folder / "trials.csv", rows)
    curves = {t.user_attrs["folder"]: sorted(t.intermediate_values.items()) for t in trials}
    names = {_name(d.key): d.kind for d in space}
    page = pages.page(rows, names, objective, curves, _importance(study, space), config.search.trials)
    files.write_atomic(folder / pages.NAME, page)


def _importance(study, space: Sequence[Dimension]) -> dict[str, float]:
    """Return each key's importance for the best trials (PED-ANOVA, Watanabe et al. 2023); {} before ten trials are complete."""
    import optuna

    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 2 * STARTUP or len({t.value for t in complete}) < 2 or len(space) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    return {_name(key): float(value) for key, value in found.items()}
