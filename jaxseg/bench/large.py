"""What many cases cost before the first step: listing their files, preparing them, opening the store, the first batch.

The cases are tiny (one channel of 16^3 voxels, or one picture of 32^2 pixels, with a mask), so that the figures are those of what
is done for each case, not of its voxels. A figure that grows with the number of cases more than in proportion is a fault.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxseg.bench import machine
from jaxseg.bench.side import Options
from jaxseg.bench.table import Row

CASES = tuple(f"{noun} {count}" for noun in ("volumes", "pictures") for count in ("1,000", "10,000", "100,000"))
EDGE = {"volumes": 16, "pictures": 32}
QUICK = 24


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: seconds to list the files, cases prepared a second and core, seconds to open and to the first batch."""
    noun, count = name.split()
    edge, n = EDGE[noun], QUICK if options.quick else int(count.replace(",", ""))
    size = "x".join([str(edge)] * (3 if noun == "volumes" else 2))
    row = lambda work, unit, value, note="": Row("large", name, work, size=size, unit=unit, ours=value, runs=1, note=note)
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder, _cache_in(folder):
        root = Path(folder) / "files"
        _write(root, noun, n, edge)
        seconds, dataset = _timed(lambda: _dataset(root))
        yield row("list the files", "s", seconds)
        recipe = _recipe(noun, edge, dataset.labels)
        say = lambda line: print(line, file=log, flush=True)
        seconds, _ = _timed(lambda: _open(dataset, recipe, say))
        yield row("prepare", "cases/s/core", n / seconds / machine.cores(), f"{seconds:.1f} s on {machine.cores()} cores")
        seconds, store = _timed(lambda: _open(dataset, recipe, say))
        yield row("open", "s", seconds)
        seconds, _ = _timed(lambda: _first_batch(store, dataset, noun, edge, say))
        yield row("first batch", "s", seconds)
        shutil.rmtree(root)


@contextlib.contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    before = os.environ.get("JAXSEG_CACHE")
    os.environ["JAXSEG_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("JAXSEG_CACHE") if before is None else os.environ.update(JAXSEG_CACHE=before)


def _timed(work) -> tuple[float, object]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def _write(root: Path, noun: str, count: int, edge: int) -> None:
    """Write the cases as the layout `folder` has them; all images differ."""
    import nibabel
    from PIL import Image

    random = np.random.default_rng(0)
    shape = (edge,) * (3 if noun == "volumes" else 2)
    mask = np.zeros(shape, np.uint8)
    mask[(slice(4, 9),) * len(shape)] = 1
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    if noun == "volumes":
        first, second = root / "first.nii", root / "second.nii"
        nibabel.save(nibabel.Nifti1Image(random.integers(0, 500, shape).astype(np.int16), np.eye(4)), first)
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), second)
        image_bytes, mask_bytes = bytearray(first.read_bytes()), second.read_bytes()
        first.unlink(), second.unlink()
    for i in range(count):
        if noun == "volumes":
            image_bytes[-2 * edge**3 :] = random.integers(0, 500, edge**3).astype(np.int16).tobytes()
            (root / "images" / f"{i:06d}.nii").write_bytes(image_bytes)
            (root / "masks" / f"{i:06d}.nii").write_bytes(mask_bytes)
        else:
            Image.fromarray(random.integers(0, 255, shape).astype(np.uint8)).save(
                root / "images" / f"{i:06d}.png", compress_level=1
            )
            Image.fromarray(mask).save(root / "masks" / f"{i:06d}.png", compress_level=1)


def _dataset(root: Path):
    from jaxseg.data import datasets

    return datasets.load("folder", root)


def _recipe(noun: str, edge: int, labels: tuple[str, ...]):
    from jaxseg.data.records import Recipe

    size = (edge,) * (3 if noun == "volumes" else 2)
    volumes = noun == "volumes"
    return Recipe(
        size=size,
        window=None,
        spacing=None,
        channels=1,
        labels=labels,
        intensity="brain" if volumes else "grey",
        fit="patches" if volumes else "stretch",
    )


def _open(dataset, recipe, say):
    from jaxseg.data.store import per_case, stacked

    return (per_case if recipe.fit == "patches" else stacked).open_or_build(dataset, recipe, log=say)


def _first_batch(store, dataset, noun: str, edge: int, say):
    from jaxseg.data import splits
    from jaxseg.data.stream import patches, pipeline

    rows = splits.split_rows(store.rows, dataset, split="patient", fractions=(0.7, 0.1, 0.2), seed=0, log=say)
    if noun == "volumes":
        stream = patches.patch_batches(store, rows["train"], batch_size=8, patch=(edge // 2,) * 3, seed=0)
    else:
        stream = pipeline.train_batches(store, rows["train"], batch_size=8, seed=0)
    with stream:
        return next(stream)
