"""--mode=compare: train and test several networks, or variants of a config, and compare them.

    <folder>/<model>/seed_<s>[_fold_<k>]/              an ordinary run folder
    <folder>/<model>_seed_<s>[_fold_<k>]_best        a link to it: every mode that takes a run reads its best checkpoint
    <folder>/<model>/seed_<s>[_fold_<k>]/failed.json   why a run failed; it is tried again at the next start
    <folder>/*.csv, comparison.json, report.html       the tables (`tables`), written after every run

A second start skips finished runs and resumes an unfinished one. Several processes may work on one experiment: each takes the
next run whose folder no other process has locked.
"""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg.checkpoint.claims import EVALUATION, InUse
from jaxseg.experiments import live, tables
from jaxseg.experiments.plan import FAILED, Planned, distinct, plain, runs
from jaxseg.types import ConfigError, JaxsegError, StorageError
from jaxseg.utils import files, guard, output
from jaxseg.utils.command import check_interrupt

FAILED_SOME = 65  # exit code where runs could not be finished


@dataclasses.dataclass
class Standing:
    """The state of the runs of a comparison.

    Attributes:
      done: runs that are finished.
      failed: name of a run that failed -> reason.
      elsewhere: runs that other processes are training.
    """

    done: list[Planned] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    elsewhere: list[Planned] = dataclasses.field(default_factory=list)


def compare(
    config,
    folder: Path,
    train: Callable[[Any, Path], int | None],
    check: Callable[[Any], object],
    measure: Callable[[Path], dict[str, Any]],
    same: Callable[[Any, Path], object],
    say: Callable[[str], None],
    summarise_attention: Callable[[str, Any, Path], Sequence[str]] = lambda *_: (),
) -> int | None:
    """Train and test every run of config.compare that is not finished, then write the tables.

    Args:
      config: a resolved tree.
      folder: the folder of the experiment.
      train: trains a config in a folder and evaluates its best checkpoint; returns None, or the exit code of a run that was
        stopped.
      check: raises an error for a config that cannot work.
      measure: measures memory and latency of the network of a run folder, for config.compare.measure.
      same: raises an error if a finished run has another configuration.
      say: called with one line of text for each event.
      summarise_attention: (model, config, run folder) of each model's first run -> the files that it wrote about the network's
        attention.
    Returns:
      None, the exit code of a run that was stopped, or 65 if runs failed.
    Raises:
      ConfigError: a combination cannot work; nothing was trained.
      MismatchError: a finished run in the folder has another configuration.
    """
    planned = runs(config, folder)
    for run in distinct(planned):
        try:
            check(run.config)
        except ConfigError as error:
            raise ConfigError(f"{run.model}: {error}") from error
    files.make_folder(folder, f"--workdir={folder}")
    say(f"{len(planned)} runs of {len(list(distinct(planned)))} models in {folder}")
    states = live.States(planned)
    progress, begin, now, trained = Standing(), time.perf_counter(), time.time(), 0
    waiting = list(planned)
    published = config.compare.published
    write = lambda last=False: tables.write(folder, planned, progress.done, progress.failed, published=published, last=last)
    with output.table(live.HEADS, states.rows):
        while waiting:
            run = waiting.pop(0)
            check_interrupt()
            if run.finished:
                same(run.config, run.folder)
                progress.done.append(run)
                continue
            if reason := _failed_since(run, now):
                progress.failed[run.name] = reason
                say(f"{run.name}: skipped, it failed in another process: {reason}")
                continue
            left = _remaining(begin, trained, len(waiting) + 1)
            say(f"{run.name}: started ({len(progress.done)} of {len(planned)} finished{left})")
            states.begin(run)
            try:
                code = train(run.config, run.folder)
                if code is None and config.compare.measure:
                    _measure(run, planned, measure, say)
            except InUse as error:
                progress.elsewhere.append(run)
                say(f"{run.name}: skipped, {error.holder} is training it")
                continue
            except StorageError:
                raise  # it would also stop the next run
            except Exception as error:
                known = isinstance(error, JaxsegError)
                reason = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                trace = "" if known else traceback.format_exc()
                files.make_folder(run.folder, f"--workdir={folder}")
                files.write_json(run.folder / FAILED, {"reason": reason, "traceback": trace})
                progress.failed[run.name] = reason
                say(f"{run.name}: FAILED: {reason}")
                continue
            if code:
                return code
            (run.folder / FAILED).unlink(missing_ok=True)
            _link(run, folder)
            trained += 1
            progress.done.append(run)
            say(f"{run.name}: {tables.headline(run.folder)}")
            output.event("run", run=run.name, folder=run.folder, mean_dice=guard.read_json(run.folder / EVALUATION)["mean_dice"])
            write()
    progress.done += [run for run in progress.elsewhere if run.finished]  # meanwhile
    _summarise_attention(progress.done, summarise_attention, say)
    lines = write(last=True)
    for line in lines:
        say(line)
    finished_runs = [run.name for run in progress.done]
    output.event("compare", folder=folder, runs=len(planned), finished=finished_runs, failed=progress.failed, facts=lines)
    open_ = len(planned) - len(progress.done) - len(progress.failed)
    if open_:
        what = "1 run is" if open_ == 1 else f"{open_} runs are"
        say(f"{what} being trained by other processes; the process that ends last writes the complete tables")
    return FAILED_SOME if progress.failed else None


def _failed_since(run: Planned, moment: float) -> str:
    """Return the reason of a run that failed after this time, in another process; "" if none did."""
    path = run.folder / FAILED
    return guard.read_json(path)["reason"] if path.is_file() and path.stat().st_mtime > moment else ""


def _link(run: Planned, folder: Path) -> None:
    """<folder>/<model>_seed_<s>[_fold_<k>]_best, under which scripts look for a run's best checkpoint, is a link to the run."""
    link = folder / f"{plain(run.name)}_best"
    with contextlib.suppress(OSError):  # a file system without links, or a link that is there
        link.symlink_to(run.folder.relative_to(folder), target_is_directory=True)


def _summarise_attention(
    done: list[Planned], summarise: Callable[[str, Any, Path], Sequence[str]], say: Callable[[str], None]
) -> None:
    """Write the attention summaries of each model; if that fails, for instance because the data are gone, log a line.

    No error ends the comparison here: all runs are finished, and its tables are written next.
    """
    for run in distinct(done):
        try:
            written = summarise(run.model, run.config, run.folder)
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            say(f"{run.model}: its attention could not be summarised: {said or type(error).__name__}")
        else:
            if written:
                say(f"{run.model}: {', '.join(written)}")


def _measure(run: Planned, planned: list[Planned], measure: Callable[[Path], dict[str, Any]], say: Callable[[str], None]) -> None:
    """Write what a run's network costs; if that fails, for instance for lack of memory, log a line: the run is finished."""
    if (run.folder / tables.MEASURES).is_file():
        return
    try:
        files.write_json(run.folder / tables.MEASURES, _measured(run, planned) or measure(run.folder))
    except ConfigError as error:
        say(f"{run.name}: its costs could not be measured: {error}")


def _measured(run: Planned, planned: list[Planned]) -> dict[str, Any] | None:
    """Return the measurements of another run of the same network: costs do not depend on seed and fold."""
    for other in planned:
        if other.model == run.model and (other.folder / tables.MEASURES).is_file():
            return guard.read_json(other.folder / tables.MEASURES)
    return None


def _remaining(begin: float, trained: int, left: int) -> str:
    if not trained:
        return ""
    minutes = (time.perf_counter() - begin) / trained * left / 60
    return f", about {minutes:.0f} min left"
