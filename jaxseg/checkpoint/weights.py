"""Read a trained network's arrays from a run, without its optimiser and configuration."""

import shutil
from pathlib import Path

import numpy as np

from jaxseg.checkpoint import folder as listing
from jaxseg.checkpoint import step as steps
from jaxseg.checkpoint.record import CHECKPOINTS, RECORD, read_record
from jaxseg.checkpoint.step import Damaged
from jaxseg.types import CheckpointError
from jaxseg.utils import files

_GROUPS = ("params/", "state/", "ema/")
Tree = dict[str, np.ndarray]


def load_weights(path: str | Path) -> tuple[Tree, Tree, dict]:
    """Read (params, state, info) of a checkpoint as flat dictionaries of host arrays, verified against their digests.

    The saved state is {"params": {...}, "state": {...}, "ema": {...}, ...}. If info["evaluated"] is "ema", the moving average is
    returned as params, because it is what validation evaluated. The folder is not changed, so that a run that is still training
    can be read.

    Args:
      path: a run folder or its checkpoints folder (the best step, else the newest), or the folder of one step.
    Raises:
      CheckpointError: there is no checkpoint, or the chosen one is damaged (no other is taken in its place).
    """
    path = Path(path).absolute()  # Orbax takes no relative paths
    for attempt in range(3):
        folder = step_folder(path)
        try:
            manifest = steps.read_manifest(folder)
            host, info = steps.read(folder, manifest, [n for n in manifest.specs if n.startswith(_GROUPS)])
            break
        except Damaged as error:
            if attempt < 2 and not folder.exists():
                continue  # the run went on and deleted it: choose again
            others = [n for n in listing.numbers(folder.parent) if str(n) != folder.name]
            raise CheckpointError(
                f"checkpoint {folder} is damaged: {error}; use another step (there: {others or 'none'})"
            ) from error
    params, state, ema = ({n.removeprefix(g): v for n, v in host.items() if n.startswith(g)} for g in _GROUPS)
    if not params:
        raise CheckpointError(f"checkpoint {folder} holds no params/...; its leaves are {sorted(manifest.specs)[:5]} ...")
    if info.get("evaluated") == "ema":
        if ema.keys() != params.keys():
            raise CheckpointError(
                f"checkpoint {folder} was evaluated with its moving average, but holds {len(ema)} arrays "
                f"of it for {len(params)} parameters; use another step"
            )
        params = ema
    return params, state, info


def keep_copy(run: str | Path, record: str | Path, target: str | Path) -> Path:
    """Copy the checkpoint that `load_weights(run)` would read, and the run's record, to a new run folder.

    Args:
      run: as for `load_weights`.
      record: the run folder that holds run.json.
      target: the new folder; not changed if it exists.
    Raises:
      CheckpointError: there is nothing to copy.
      StorageError: the copy cannot be written.
    """
    read_record(record)

    def build(folder: Path) -> None:
        step = step_folder(Path(run).absolute())
        shutil.copytree(step, folder / CHECKPOINTS / step.name)
        shutil.copyfile(Path(record) / RECORD, folder / RECORD)

    return files.build_folder(target, build)


def step_folder(path: str | Path) -> Path:
    """Return the step folder that `load_weights` reads: the best in a run folder or a folder of steps, or the path itself.

    Raises:
      CheckpointError: there is no step.
    """
    path = Path(path).absolute()
    if (path / steps.MANIFEST).exists():
        return path
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    there, found = listing.numbers(folder), listing.manifests(folder)
    if not there:
        raise CheckpointError(
            f"no checkpoint in {path}: it holds neither {CHECKPOINTS}/N (as a run folder does), nor N (a "
            f"folder of steps), nor {steps.MANIFEST} (a step); give the --workdir of a run that has saved one"
        )
    damaged = [n for n in there if n not in found and (folder / str(n)).exists()]
    if damaged:
        raise CheckpointError(
            f"steps {damaged} in {folder} have a damaged {steps.MANIFEST}, so it is unknown which step is "
            f"best; choose one of {sorted(found)} and give {folder}/N"
        )
    chosen = listing.best(found, found[max(found)].best_mode)
    return folder / str(max(found) if chosen is None else chosen)
