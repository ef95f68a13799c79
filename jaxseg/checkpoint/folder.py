"""The checkpoint steps in a folder: list them, find the best, publish a new one, delete old ones.

The list of steps is always read from the disk. Every change is one rename, so that only complete steps remain if the process is
killed at any moment:

| name | meaning |
|---|---|
| N | a complete step |
| .N.saving, .N.saving.orbax-checkpoint-tmp* | is being written |
| .M.aside-for-N | step M, to be replaced by step N; it is restored if N was never completed |
| .N.deleting | is being deleted |
| N.corrupt | was found damaged |
"""

import logging
import os
import shutil
from pathlib import Path

from jaxseg.checkpoint import step as steps
from jaxseg.checkpoint.step import Damaged, Manifest

_log = logging.getLogger(__name__)


def numbers(folder: Path) -> list[int]:
    """Return the steps that have a folder, in ascending order; their content is not checked."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()) if folder.is_dir() else []


def manifests(folder: Path) -> dict[int, Manifest]:
    """Return step -> manifest, in ascending order, of the steps whose manifest is valid."""
    found = {}
    for number in numbers(folder):
        try:
            found[number] = steps.read_manifest(folder / str(number))
        except Damaged:
            continue
    return found


def corrupt(folder: Path) -> list[str]:
    """Return the names of the steps that were found damaged."""
    return sorted(p.name for p in folder.glob("*.corrupt*"))


def ever_complete(folder: Path) -> bool:
    """Return whether any step was ever completed here, even if it was damaged since."""
    return bool(numbers(folder) or corrupt(folder) or any(folder.glob(".*.aside-for-*")))


def best(found: dict[int, Manifest], mode: str) -> int | None:
    """Return the step with the smallest ("min") or largest ("max") metric, the earliest of equal ones; "last": the newest."""
    if mode == "last":
        return max(found, default=None)
    sign = 1 if mode == "min" else -1
    rated = [(sign * m.metric, number) for number, m in found.items() if m.metric is not None]
    return min(rated)[1] if rated else None


def publish(temporary: Path, final: Path) -> None:
    """Give a complete step its final name; it replaces this and later steps, left from before an older step was restored."""
    aside = []
    try:
        for number in numbers(final.parent):
            if number >= int(final.name):
                aside.append((final.with_name(str(number)), final.with_name(f".{number}.aside-for-{final.name}")))
                os.replace(*aside[-1])
        os.replace(temporary, final)
    except OSError:
        for old, new in reversed(aside):
            if new.exists():
                os.replace(new, old)
        raise
    abandoned = [old.name for old, _ in aside if old != final]
    if abandoned:
        _log.warning(
            "step %s replaces the steps %s in %s, from before an older step was restored",
            final.name,
            ", ".join(abandoned),
            final.parent,
        )
    for _, new in aside:
        shutil.rmtree(new, ignore_errors=True)


def retain(folder: Path, keep: int, mode: str) -> None:
    """Delete all steps except the newest `keep` and the best. Steps with a damaged manifest are not touched."""
    found = manifests(folder)
    for number in found.keys() - {*sorted(found)[-keep:], best(found, mode)}:
        doomed = folder / f".{number}.deleting"
        os.replace(folder / str(number), doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Delete unfinished files of killed processes; restore steps that were moved aside for a step that was never completed."""
    aside = [path.name[1:].partition(".aside-for-")[::2] for path in folder.glob(".*.aside-for-*")]
    for number, successor in sorted(aside, key=lambda a: int(a[0]), reverse=True):  # the successor's own name comes back last
        path = folder / f".{number}.aside-for-{successor}"
        if (folder / successor).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.replace(path, folder / number)
    for path in [*folder.glob(".*.saving*"), *folder.glob(".*.deleting")]:
        shutil.rmtree(path, ignore_errors=True)


def set_corrupt(folder: Path, number: int) -> str:
    """Rename a damaged step; returns its new name."""
    new, i = folder / f"{number}.corrupt", 2
    while new.exists():
        new, i = folder / f"{number}.corrupt{i}", i + 1
    os.replace(folder / str(number), new)
    return new.name
