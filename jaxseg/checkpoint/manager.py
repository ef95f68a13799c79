"""Checkpoints of one run: saved in the background, and restored only if every byte is verified.

Orbax's CheckpointManager is not used: after a failed background save its latest_step() still names the failed step, and it
silently refuses lower steps. Here a thread writes one step at a time, and the list of steps is always read from the disk. With
several processes, only process 0 writes, and a save never waits for another process (except to gather arrays that are sharded
over processes), so that a lost process cannot block a save.
"""

import json
import logging
import math
import operator
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.checkpoint import folder as listing
from jaxseg.checkpoint import leaves
from jaxseg.checkpoint import step as steps
from jaxseg.checkpoint.step import Damaged
from jaxseg.types import CheckpointError, MismatchError, StorageError

_log = logging.getLogger(__name__)
_RETRY = "free disk space or repair the folder; the next save tries again"


class Checkpoints:
    """The checkpoints in one folder. Use as a context manager, or call `close`: at exit a running save may be lost.

    One process trains in a folder at a time (see `claims.claim`). Readers of a live folder use `load_weights`.

    Args:
      folder: for instance workdir/checkpoints; created by the first save.
      keep: how many of the newest steps are kept, besides the best one.
      best_mode: "min" or "max" of the metric given to `save`, or "last": the newest step is the best.

    Attributes:
      last_save: cost of the last successful save: {"copy", "digest", "write"} in seconds, and "bytes" on disk.
      failed_in_a_row: number of saves that failed since the last successful one.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, best_mode: str = "min"):
        if keep < 1:
            raise ValueError(f"got keep={keep}; must be at least 1, to keep the newest checkpoint")
        if best_mode not in ("min", "max", "last"):
            raise ValueError(f"got best_mode={best_mode!r}; must be 'min', 'max' or 'last'")
        self.folder, self.keep, self.best_mode = Path(folder).absolute(), keep, best_mode
        self.last_save: dict[str, float] = {}
        self.failed_in_a_row = 0
        self._thread: threading.Thread | None = None
        self._failures: list[StorageError] = []
        self._line: int | None = None  # the step this object last saved or restored
        self._tidied = False
        self._makes_parents = not self.folder.parent.exists()  # else a run's folder that was taken away is not made again

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, step: int, tree: Any, info: dict, *, metric: float | None = None) -> None:
        """Copy the tree to the host, then write it in the background. All processes call this with the same step.

        Returns once the copy is made, so that the caller may donate or change the arrays. Waits if the save before it still
        runs. An error is raised by the next `poll`, `wait` or `close`. A complete step replaces an older one of the same number,
        and later steps that are left from before an older step was restored.

        Args:
          step: number of training steps done so far.
          tree: pytree of jax arrays (also sharded, also typed keys), numpy arrays and Python numbers.
          info: JSON-able dictionary that is restored together with the tree.
          metric: the value that decides which step is best; a step with None or a non-finite value is never the best.
        Raises:
          ValueError: a leaf or the info cannot be stored.
          CheckpointError: the folder holds this or a later step, which this object neither restored nor wrote.
        """
        step = operator.index(step)
        if step < 0:
            raise ValueError(f"got step={step}; must be at least 0")
        named, _ = leaves.named(tree)
        if not named:
            raise ValueError("got a tree without leaves; must hold at least one array or number")
        specs = {name: leaves.spec(name, leaf) for name, leaf in named.items()}
        try:
            info = json.loads(json.dumps(info))
        except TypeError as error:
            raise ValueError(f"info must be JSON-able: {error}") from error
        self._join()  # before the copy, so that two never exist at once
        writer = jax.process_index() == 0
        start = time.perf_counter()
        host = leaves.to_host(named, keep=writer)
        if not writer:
            return
        seconds = {"copy": round(time.perf_counter() - start, 4)}
        self._tidy()
        later = [n for n in listing.numbers(self.folder) if n >= step]
        if later and (self._line is None or step < self._line):
            raise CheckpointError(
                f"{self.folder} holds step {later[-1]}, which was not restored before saving step {step}; "
                "resume from it, or choose another --workdir"
            )
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        self._thread = threading.Thread(target=self._write, args=(step, host, specs, info, metric, seconds), name=f"save-{step}")
        self._thread.start()

    def poll(self) -> None:
        """Call after every training step: returns at once; raises a failed save's StorageError once (on process 0)."""
        if self._thread is None or not self._thread.is_alive():
            self.close()

    def wait(self) -> None:
        """Wait until the running save is on disk. All processes call this; all raise a StorageError if it failed."""
        self._join()
        if _agree(len(self._failures)) and jax.process_index():
            raise StorageError(f"process 0 could not write its checkpoint into {self.folder}; {_RETRY}")
        self.close()

    def close(self) -> None:
        """Wait for this process's running save; raises a StorageError if it failed."""
        self._join()
        if self._failures:
            failures, self._failures = self._failures, []
            raise failures[-1]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._join()
        if error is None:
            self.close()
        for failure in self._failures:  # beside the error that is on its way
            _log.error("%s", failure)

    # ---- finding ----------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Return the steps whose manifest is valid, in ascending order, as this process sees them on disk now."""
        return list(listing.manifests(self.folder))

    def latest(self, *, verify: bool = False) -> int | None:
        """Return the newest complete step, None if there is none; with `verify`, the newest whose bytes are all intact."""
        for number, manifest in sorted(listing.manifests(self.folder).items(), reverse=True):
            if not verify:
                return number
            try:
                steps.read(self.folder / str(number), manifest)
                return number
            except Damaged as error:
                _log.error("step %d in %s is damaged: %s", number, self.folder, error)
        return None

    def best_step(self) -> int | None:
        """Return the step with the best metric, the earliest of equal ones; None if no step has one."""
        return listing.best(listing.manifests(self.folder), self.best_mode)

    def has_any(self) -> bool:
        """Return whether a step was ever completed here, damaged ones included. All processes call this and get the same answer.

        If False, training may start at step 0. If True, `restore` returns a usable state or raises an error.
        """
        return bool(_agree(listing.ever_complete(self.folder)))

    # ---- restoring --------------------------------------------------------------------------------------------------

    def restore(self, target: Any, step: int | str | None = None) -> tuple[Any, dict, int]:
        """Restore a step: (tree, info, step). All processes call this and get the same step.

        Each leaf gets the type and the sharding that it has in `target`. With step None or "latest", a damaged step is renamed
        N.corrupt with a warning, and the next older step is tried.

        Args:
          target: pytree of the leaves to fill: arrays or jax.ShapeDtypeStruct (with shardings), Python numbers.
          step: a number, "best", or None / "latest".
        Raises:
          MismatchError: names, shapes or dtypes differ from those stored.
          CheckpointError: there is no such step, or no undamaged one.
          StorageError: the files cannot be read.
        """
        self._join()
        if jax.process_index() == 0:
            self._tidy()
        named, treedef = leaves.named(target)
        expected = {name: leaves.spec(name, leaf) for name, leaf in named.items()}
        found: list[str] = []
        while True:
            number = _agree(self._choose(step))
            if number < 0:
                raise CheckpointError(self._nothing(step, found))
            content, error = self._read(number, expected)
            self._agree_on(number, error)
            if content is not None:
                break
            if step not in (None, "latest"):
                raise CheckpointError(
                    f"step {number} in {self.folder} is damaged: {error}; choose another of the steps {self.steps()}"
                )
            found.append(f"step {number}: {error}")
            if jax.process_index() == 0:
                self._set_corrupt(number, error)
        host, info = content
        filled = [leaves.place(name, host.pop(name), leaf) for name, leaf in named.items()]
        self._line = number
        return jax.tree_util.tree_unflatten(treedef, filled), info, number

    def _read(self, number: int, expected: dict[str, leaves.LeafSpec]):
        """Return ((host, info), None), or (None, the error) if this process cannot use the step."""
        folder = self.folder / str(number)
        try:
            manifest = steps.read_manifest(folder)
            leaves.compare(expected, manifest.specs, f"step {number} in {self.folder}")
            return steps.read(folder, manifest), None
        except (CheckpointError, MismatchError, StorageError) as error:
            return None, error

    def _agree_on(self, number: int, error: Exception | None) -> None:
        """Return on all processes (all read the step, or all found it damaged), or raise an error on all."""
        verdict = 0 if error is None else 1 if isinstance(error, Damaged) else 2
        if jax.process_count() > 1:
            verdicts = multihost_utils.process_allgather(np.int32(verdict)).reshape(-1).tolist()
            if len(set(verdicts)) > 1:
                failing = [i for i, v in enumerate(verdicts) if v]
                raise CheckpointError(
                    f"processes {failing} cannot use step {number} in {self.folder}, but the others can; all need "
                    f"the same shared file system and the same configuration{f' ({error})' if error else ''}"
                )
        if error is not None and verdict == 2:
            raise error

    def _choose(self, step: int | str | None) -> int:
        """Return the number of the step, -1 if there is none."""
        there = listing.numbers(self.folder)
        if step in (None, "latest"):
            return there[-1] if there else -1
        if step == "best":
            found = listing.manifests(self.folder)  # with one unreadable manifest the best step is unknown
            number = listing.best(found, self.best_mode) if len(found) == len(there) else None
            return -1 if number is None else number
        if isinstance(step, str):
            raise ValueError(f"got step={step!r}; must be a number, 'best' or 'latest'")
        return operator.index(step) if step in there else -1

    def _nothing(self, step: int | str | None, found: list[str]) -> str:
        wanted = "usable checkpoint" if step in (None, "latest") else "best step" if step == "best" else f"step {step}"
        there, whole, corrupt = listing.numbers(self.folder), self.steps(), listing.corrupt(self.folder)
        seen = [
            *found,
            *([f"damaged and renamed: {', '.join(corrupt)}"] if corrupt else []),
            *([f"steps there: {there}"] if there else []),
            *([f"with a damaged {steps.MANIFEST}: {sorted(set(there) - set(whole))}"] if len(whole) < len(there) else []),
        ]
        return (
            f"no {wanted} in {self.folder} ({'; '.join(seen) or 'it holds no step'}); give another step, or start again in "
            "another --workdir"
        )

    def _set_corrupt(self, number: int, error: Exception | None) -> None:
        try:
            name = listing.set_corrupt(self.folder, number)
        except OSError as failure:
            raise StorageError(
                f"cannot rename the damaged step {self.folder / str(number)}: {failure.strerror}; delete it by hand"
            ) from failure
        _log.error(
            "CHECKPOINT DAMAGED: step %d in %s: %s; renamed to %s; trying the next older step", number, self.folder, error, name
        )

    # ---- the background thread --------------------------------------------------------------------------------------

    def _write(self, step: int, host: dict, specs: dict, info: dict, metric: float | None, seconds: dict) -> None:
        try:
            self._make_folder(sum(value.nbytes for value in host.values()))
            manifest = steps.write(
                self.folder / str(step),
                step,
                host,
                specs,
                info,
                metric=metric,
                best_mode=self.best_mode,
                seconds=seconds,
                publish=listing.publish,
            )
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            failure = StorageError(f"checkpoint {step} was not written into {self.folder}: {steps.first_line(error)}; {_RETRY}")
            failure.__cause__ = error
            self.failed_in_a_row += 1
            self._failures.append(failure)
            return
        self._line, self.failed_in_a_row = step, 0
        self.last_save = {**manifest.seconds, "bytes": float(sum(size for size, _ in manifest.files.values()))}
        _log.info(
            "checkpoint %d: %.1f MB, %s",
            step,
            self.last_save["bytes"] / 1e6,
            ", ".join(f"{what} {cost:.2f} s" for what, cost in manifest.seconds.items()),
        )
        try:
            listing.retain(self.folder, self.keep, self.best_mode)
        except (OSError, CheckpointError) as error:
            _log.warning("old checkpoints in %s cannot be deleted: %s", self.folder, error)

    def _make_folder(self, size: int) -> None:
        self.folder.mkdir(parents=self._makes_parents, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < 1.05 * size:
            _log.warning(
                "%s has %.1f MB free, but the next checkpoint takes up to %.1f MB; free disk space",
                self.folder,
                free / 1e6,
                size / 1e6,
            )

    def _tidy(self) -> None:
        if not self._tidied:
            try:
                listing.tidy(self.folder)
            except OSError as error:
                raise StorageError(
                    f"cannot remove unfinished files in {self.folder}: {error.strerror}; repair the folder, then start again"
                ) from error
            self._tidied = True

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _agree(value: int) -> int:
    """Return process 0's value on every process."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
