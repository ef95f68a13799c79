"""The runs of an experiment as one ensemble: `jaxseg predict --experiment=NAME` applies all folds and seeds of one model.

The model is the best on the validation split, as comparison.json says, or the one that is named; test scores are not used for the
choice.
"""

from pathlib import Path
from typing import Any

from jaxseg.types import CheckpointError, ConfigError
from jaxseg.utils import guard, output
from jaxseg.utils.lookup import lookup

NAME = "comparison.json"  # of the folder of an experiment
ROOT = Path("runs")  # where an experiment lies without --workdir


def as_runs(argv: list[str], mode: str | None, workdir: str | None, experiment: str | None) -> list[str]:
    """The command line with an experiment replaced by its runs: the first as --workdir, the others as config.infer.ensemble.

    Args:
      argv: the command line as typed.
      mode, workdir, experiment: the values of these flags; experiment: NAME or NAME/MODEL, below runs.
    Raises:
      ConfigError: the experiment or model does not exist, has no finished run, or the flags exclude each other.
    """
    if mode != "predict":
        if experiment is not None:
            raise ConfigError(f"--experiment={experiment}: is for --mode=predict, not for --mode={mode or 'train'}; leave it out")
        return argv
    if experiment is not None and workdir is not None:
        raise ConfigError("--experiment is a folder below runs, and --workdir any folder; give one of them")
    place = ROOT / experiment if experiment is not None else Path(workdir or "")
    if (place / NAME).is_file():
        folder, model = place, ""
    elif (place.parent / NAME).is_file() and not (place / "run.json").is_file():
        folder, model = place.parent, place.name
    elif experiment is not None:
        raise ConfigError(f"--experiment={experiment}: there is no {place / NAME}; `jaxseg compare` makes one")
    else:
        return argv
    words = _without(argv, ("experiment", "workdir"))
    for flag in ("checkpoint", "config.infer.ensemble"):
        if any(word.lstrip("-").partition("=")[0] == flag for word in words if word.startswith("-")):
            raise ConfigError(f"--{flag}: the runs of the experiment {folder} are the ensemble; leave this flag out")
    first, *others = runs_of(folder, model)
    return [*words, f"--workdir={first}", *([f"--config.infer.ensemble={tuple(map(str, others))!r}"] if others else [])]


def runs_of(folder: Path, model: str = "") -> list[Path]:
    """Return the finished runs of one model of an experiment, and print which they are.

    Args:
      folder: the folder of the experiment.
      model: its name or that of its folder; "": the best on the validation split.
    Raises:
      ConfigError: no such model, no finished run, or no validation score to choose by.
    """
    facts = guard.read_json(folder / NAME)
    models = _models(facts, folder)
    by_folder = {Path(found["folder"]).name: name for name, found in models.items()}
    chosen = model or facts["best_by_validation"]
    if not chosen:
        raise ConfigError(f"{folder}: no model has a validation score to choose by; name one: {folder}/{next(iter(by_folder))}")
    chosen = by_folder.get(chosen, chosen)
    lookup(f"model in {folder}", chosen, models)
    there = [folder / place for place in models[chosen]["runs"]]
    if not there:
        raise ConfigError(f"{folder}: {chosen} has no finished run; go on with the experiment, or name another model")
    why = "named" if model else f"best on the validation split, mean Dice {models[chosen]['val_dice']:.4f}"
    number = "1 run" if len(there) == 1 else f"{len(there)} runs"
    planned = models[chosen]["planned"]
    left = f" of {planned}" if planned > len(there) else ""
    output.say(f"{folder}: {chosen} ({why}), {number}{left}: {', '.join(str(p.relative_to(folder)) for p in there)}", result=True)
    output.event("ensemble", experiment=folder, model=chosen, runs=[str(path) for path in there])
    return there


def _models(facts: Any, folder: Path) -> dict[str, dict[str, Any]]:
    try:
        models = dict(facts["models"])
        if any(Path(place).is_absolute() or ".." in Path(place).parts for m in models.values() for place in m["runs"]):
            raise ValueError("a run outside of the experiment")
        return models
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / NAME} does not list the runs of each model ({error}); run `jaxseg compare` on it once more"
        ) from error


def _without(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """The command line without these flags and their values."""
    kept, skip = argv[:1], False
    for word in argv[1:]:
        name, there, _ = word.lstrip("-").partition("=")
        if skip:
            skip = False
        elif word.startswith("-") and name in names:
            skip = not there
        else:
            kept.append(word)
    return kept
