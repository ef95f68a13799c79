"""One step on disk: written completely or not at all, and read only if every byte is as it was written.

    N/state/        the leaves, written by Orbax (OCDBT of zarr arrays)
    N/info/         a JSON dictionary, written by Orbax
    N/digests.json  written here: shape, dtype and blake2b-128 of every leaf, size and CRC-32 of every file, the metric

There are two kinds of checksums, because Orbax detects neither a flipped bit in an array nor a changed dtype: the CRC covers
every file and is fast (7 GB/s on one core); the digests of leaves (1.4 GB/s) cover the way from the device's memory to the disk
and back. Orbax runs only on the calling process (no barriers), on host arrays, and reads into an abstract target built from
digests.json, so that names, shapes and dtypes are known before any data are read.
"""

import errno
import functools
import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxseg.checkpoint.leaves import LeafSpec, digest, storage_dtype
from jaxseg.types import CheckpointError, DataError, StorageError
from jaxseg.utils import guard
from jaxseg.utils.files import write_atomic

MANIFEST = "digests.json"
_FORMAT = 1
_NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)


class Damaged(CheckpointError):
    """The bytes of a step are not those that were written."""


class Manifest(NamedTuple):
    """The content of digests.json.

    Attributes:
      step: number of the step.
      metric: the value by which the best step is chosen; None if there was none.
      best_mode: "min", "max" or "last".
      specs: leaf name -> LeafSpec.
      digests: leaf name -> hexadecimal digest.
      files: path inside the step -> (bytes, CRC-32).
      seconds: duration of the save's parts: {"copy", "digest", "write"}.
    """

    step: int
    metric: float | None
    best_mode: str
    specs: dict[str, LeafSpec]
    digests: dict[str, str]
    files: dict[str, tuple[int, int]]
    seconds: dict[str, float]


def write(
    final: Path,
    step: int,
    host: dict[str, np.ndarray],
    specs: dict[str, LeafSpec],
    info: dict,
    *,
    metric: float | None,
    best_mode: str,
    seconds: dict[str, float],
    publish=os.replace,
) -> Manifest:
    """Write a step under a temporary name, then publish it under its final name.

    Args:
      final: the step's folder, which must not exist yet.
      step, metric, best_mode, seconds: for the manifest; the time of digests and writing is added to `seconds`.
      host: leaf name -> host array.
      specs: leaf name -> LeafSpec.
      info: JSON-able.
      publish: publish(temporary, final) makes the complete folder visible.
    Raises:
      Exception: any error of the disk, or of Orbax; the temporary folder is removed before.
    """
    temporary = final.with_name(f".{final.name}.saving")
    discard(temporary)
    try:
        start = time.perf_counter()
        digests = {name: digest(value, specs[name]) for name, value in host.items()}
        middle = time.perf_counter()
        arrays = {name: value for name, value in host.items() if value.size}  # Orbax refuses arrays of size 0
        with _checkpointer() as checkpointer:
            checkpointer.save(temporary, ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), info=ocp.args.JsonSave(info)))
        files = {str(p.relative_to(temporary)): _file_sum(p, sync=True) for p in sorted(temporary.rglob("*")) if p.is_file()}
        seconds = {**seconds, "digest": round(middle - start, 4), "write": round(time.perf_counter() - middle, 4)}
        manifest = Manifest(step, metric, best_mode, specs, digests, files, seconds)
        write_atomic(temporary / MANIFEST, _dump(manifest))
        publish(temporary, final)
        _sync_folder(final.parent)
    except BaseException:
        discard(temporary)
        raise
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a step and verify that it is unchanged.

    Raises:
      Damaged: the manifest is missing, unreadable or altered.
    """
    try:
        if (folder / MANIFEST).exists():
            guard.check_regular(folder / MANIFEST)
        raw = (folder / MANIFEST).read_bytes()
    except DataError as error:
        raise Damaged(str(error)) from error
    except OSError as error:
        raise _unreadable(folder / MANIFEST, error) from error
    manifest = _parsed(raw, folder)
    if folder.name.isdigit() and int(folder.name) != manifest.step:
        raise Damaged(f"it was written as step {manifest.step}")
    return manifest


@functools.lru_cache(maxsize=16)  # a command reads the manifests of a run several times
def _parsed(raw: bytes, folder: Path) -> Manifest:
    try:
        content = guard.parse_json(raw)
        if content["format"] > _FORMAT:
            raise CheckpointError(
                f"{folder} has checkpoint format {content['format']}; this jaxseg reads formats up to {_FORMAT}: use a newer one"
            )
        manifest = Manifest(
            content["step"],
            content["metric"],
            content["best_mode"],
            {n: LeafSpec(tuple(shape), dtype) for n, (dtype, shape, _) in content["leaves"].items()},
            {n: digest_ for n, (_, _, digest_) in content["leaves"].items()},
            {n: tuple(sum_) for n, sum_ in content["files"].items()},
            content["seconds"],
        )
        whole = _dump(manifest) == raw
    except CheckpointError:
        if _self_digest(content) == content.get("self"):
            raise
        whole = False  # a flipped bit in the format number
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{MANIFEST} has changed since it was written")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise Damaged unless every file has the size and CRC-32 it was written with."""
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise Damaged(f"file {guard.shown(name)} lies outside of the step")
            if path.exists():
                guard.check_regular(path)
            found = _file_sum(path)
        except DataError as error:
            raise Damaged(str(error)) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if found[0] != expected[0]:
            raise Damaged(f"file {name} has {found[0]} bytes instead of {expected[0]}")
        if found != expected:
            raise Damaged(f"file {name} has CRC-32 {found[1]:08x} instead of {expected[1]:08x}")


def read(folder: Path, manifest: Manifest, wanted: Iterable[str] | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """Read ({name: host array}, info) of a step, verified against the manifest.

    Args:
      folder: the step's folder.
      manifest: from `read_manifest`.
      wanted: names of leaves; None: all.
    Raises:
      Damaged: a file or a leaf has changed since it was written.
      StorageError: the files cannot be read, for example because of their permissions.
    """
    check_files(folder, manifest)
    wanted = list(manifest.specs if wanted is None else wanted)
    abstract = {n: jax.ShapeDtypeStruct(manifest.specs[n].shape, storage_dtype(manifest.specs[n])) for n in wanted}
    host = {n: np.zeros(a.shape, a.dtype) for n, a in abstract.items() if math.prod(a.shape) == 0}
    full = [n for n in wanted if n not in host]
    target = {n: abstract[n] for n in full}
    state = ocp.args.PyTreeRestore(
        item=target,
        restore_args={n: ocp.RestoreArgs(restore_type=np.ndarray) for n in full},
        partial_restore=len(full) < len(manifest.specs),
    )
    items: dict[str, Any] = {"info": ocp.args.JsonRestore(), **({"state": state} if full else {})}
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(folder, ocp.args.Composite(**items))
        host.update({n: np.asarray(restored.state[n]) for n in full})
        info = restored.info
    except MemoryError:
        raise
    except Exception as error:  # Orbax and tensorstore raise a zoo: ValueError, KeyError, UnicodeDecodeError, JSONDecodeError
        raise Damaged(f"Orbax cannot read it: {first_line(error)}") from error
    for name in wanted:
        same = (host[name].shape, host[name].dtype) == (abstract[name].shape, abstract[name].dtype)
        if not same or digest(host[name], manifest.specs[name]) != manifest.digests[name]:
            raise Damaged(f"leaf {name} does not match its digest")
    return host, info


def discard(folder: Path) -> None:
    """Remove a folder, and temporary files that Orbax may have left beside it."""
    for path in (folder, *folder.parent.glob(f"{folder.name}.orbax-checkpoint-tmp*")):
        shutil.rmtree(path, ignore_errors=True)


def _checkpointer() -> ocp.Checkpointer:
    """Return an Orbax checkpointer for this process only, which does not copy the host arrays again."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"jaxseg{me}")
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # never used; without it Orbax warns at every call
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
    )
    handler = ocp.CompositeCheckpointHandler(
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, type_handler_registry=registry),
        info=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _dump(manifest: Manifest) -> bytes:
    content = {
        "format": _FORMAT,
        "step": manifest.step,
        "metric": manifest.metric,
        "best_mode": manifest.best_mode,
        "leaves": {n: [s.dtype, list(s.shape), manifest.digests[n]] for n, s in manifest.specs.items()},
        "files": {n: list(s) for n, s in manifest.files.items()},
        "seconds": manifest.seconds,
    }
    return (json.dumps({**content, "self": _self_digest(content)}, sort_keys=True, indent=1) + "\n").encode()


def _self_digest(content: dict) -> str:
    text = json.dumps({k: v for k, v in content.items() if k != "self"}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _file_sum(path: Path, sync: bool = False) -> tuple[int, int]:
    """Return (bytes, CRC-32) of a file; with `sync`, write it to the disk first, so that a full disk is noticed."""
    size = crc = 0
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> CheckpointError | StorageError:
    if error.errno in _NOT_DAMAGE:
        return StorageError(f"cannot read {path}: {error.strerror}; repair its permissions or the file system, then start again")
    return Damaged(f"file {path.name} cannot be read: {error.strerror or error}")


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error's message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"
