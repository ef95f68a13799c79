"""A trained network's arrays out of a run, without knowing its optimiser or its configuration."""

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
    """(params, state, info) of a checkpoint as flat dictionaries of host arrays, verified against their digests.

    The state that was saved is {"params": {...}, "state": {...}, "ema": {...}, ...}. Where info["evaluated"] is "ema",
    the moving average stands for the parameters, since it is what validation measured. Nothing is renamed or removed: a
    run that still trains can be read.

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
            raise CheckpointError(f"checkpoint {folder} is damaged: {error}; other steps there: {others or 'none'}") from error
    params, state, ema = ({n.removeprefix(g): v for n, v in host.items() if n.startswith(g)} for g in _GROUPS)
    if not params:
        raise CheckpointError(f"checkpoint {folder} holds no params/...; its leaves are {sorted(manifest.specs)[:5]} ...")
    if info.get("evaluated") == "ema":
        if ema.keys() != params.keys():
            raise CheckpointError(
                f"checkpoint {folder} says that its moving average was evaluated, and holds {len(ema)} arrays "
                f"of it for {len(params)} parameters"
            )
        params = ema
    return params, state, info


def keep_copy(run: str | Path, record: str | Path, target: str | Path) -> Path:
    """Copy what `load_weights(run)` would read, and the record beside it, into the folder `target` once; it is then a run folder.

    Args:
      run: as for `load_weights`.
      record: the run folder that holds its run.json.
      target: the copy; left alone where it exists.
    Raises:
      CheckpointError: nothing to copy.
      StorageError: it cannot be written.
    """
    read_record(record)

    def build(folder: Path) -> None:
        step = step_folder(Path(run).absolute())
        shutil.copytree(step, folder / CHECKPOINTS / step.name)
        shutil.copyfile(Path(record) / RECORD, folder / RECORD)

    return files.build_folder(target, build)


def step_folder(path: str | Path) -> Path:
    """The folder of the step that `load_weights` reads: under a run folder or a folder of steps the best, or the step itself.

    Raises:
      CheckpointError: there is none.
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
            f"best; name one of {sorted(found)}: {folder}/N"
        )
    chosen = listing.best(found, found[max(found)].best_mode)
    return folder / str(max(found) if chosen is None else chosen)
