"""What many cases cost before the first step: listing their files, preparing them, opening the store, the first batch; as
"start 100,000" the same without preparing them, which takes minutes, from a store that is written at once; and, as "engines",
what prepared volumes cost on the disk and how fast patches are read from them.

The cases are tiny (one channel of 16^3 voxels, or one picture of 32^2 pixels, with a mask), so that the figures are those of what
is done for each case, not of its voxels. A figure that grows with the number of cases more than in proportion is a fault.
"""

import contextlib
import functools
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

CASES = (
    *(f"{noun} {count}" for noun in ("volumes", "pictures") for count in ("1,000", "10,000", "100,000")),
    "start 100,000",
    "engines",
)
EDGE = {"volumes": 16, "pictures": 32}
QUICK = 24


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: seconds to list the files, cases prepared per second and core, seconds to open and to the first batch."""
    if name == "engines":
        yield from _engines(options)
        return
    if name.startswith("start"):
        yield from _start(name, QUICK if options.quick else int(name.split()[1].replace(",", "")))
        return
    noun, count = name.split()
    edge, n = EDGE[noun], QUICK if options.quick else int(count.replace(",", ""))
    size = "x".join([str(edge)] * (3 if noun == "volumes" else 2))
    row = lambda work, unit, value, note="": Row("large", name, work, size=size, unit=unit, ours=value, runs=1, note=note)
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder, _cache_in(folder):
        root = Path(folder) / "files"
        _write(root, noun, n, edge)
        seconds, note, dataset = _noted(lambda: _dataset(root))
        yield row("list the files", "s", seconds, note)
        recipe = _recipe(noun, edge, dataset.labels)
        say = lambda line: print(line, file=log, flush=True)
        before = _processor_seconds()
        seconds, _ = _timed(lambda: _open(dataset, recipe, say))
        each = 1000 * (_processor_seconds() - before) / n
        note = f"{seconds:.1f} s on {machine.cores()} cores, {each:.1f} ms of processor time a case"
        yield row("prepare", "cases/s/core", n / seconds / machine.cores(), note)
        seconds, note, store = _noted(lambda: _open(dataset, recipe, say))
        yield row("open", "s", seconds, note)
        found = [path.stat().st_size for path in store.folder.rglob("*") if path.is_file()]
        yield row("files of the store", "files", len(found), f"{sum(found) / 2**20:.0f} MiB")
        seconds, note, _ = _noted(lambda: _first_batch(store, dataset, noun, edge, say))
        yield row("split and first batch", "s", seconds, note)
        import resource  # Unix

        peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
        yield row(
            "peak memory", "MiB", peak(resource.RUSAGE_SELF), f"{peak(resource.RUSAGE_CHILDREN):.0f} MiB of a preparing process"
        )
        shutil.rmtree(root)


def _start(name: str, count: int) -> Iterator[Row]:
    """The rows of a start with prepared cases, whose files and store are made up."""
    from jaxseg.data.store import per_case

    edge = EDGE["volumes"]
    row = lambda work, measured: Row("large", name, work, f"{edge}x{edge}x{edge}", "s", measured[0], runs=1, note=measured[1])
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder:
        root, place = Path(folder) / "files", Path(folder) / "store"
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True)
            for i in range(count):
                (root / kind / f"{i:06d}.nii").touch()
        *listing, dataset = _noted(lambda: _dataset(root))
        yield row("list the files", listing)
        recipe = _recipe("volumes", edge, dataset.labels)
        _write_store(place, dataset, recipe, edge)
        *opening, (store, _) = _noted(lambda: (per_case.open_store(place), per_case.fingerprint(dataset, recipe)))
        yield row("open", opening)
        *first, _ = _noted(lambda: _first_batch(store, dataset, "volumes", edge, lambda line: None))
        yield row("split and first batch", first)


def _write_store(folder: Path, dataset, recipe, edge: int) -> None:
    """Write the store that preparing small volumes would leave, with one image that differs in a voxel from case to case."""
    from jaxseg.data.store import arrays, base, foreground, per_case, rows

    image, mask = np.random.default_rng(0).normal(size=(edge,) * 3 + (1,)).astype(np.float32), np.zeros((edge,) * 3, np.uint8)
    mask[4:9, 4:9, 4:9] = 1
    index, kept, counts = foreground.index(mask, 1)
    grid = {"spacing": [1.0] * 3, "scan_shape": [edge] * 3, "scan_spacing": [1.0] * 3}
    about = {"stratum": "", "foreground": counts, "kept": kept, "shape": [edge] * 3, "span": [[0.0, 1.0]], **grid}
    made = rows.Collected()
    folder.mkdir()
    with arrays.Joined(folder) as joined:
        for i, case in enumerate(dataset.cases):
            image[0, 0, 0] = i
            content = dict(zip(per_case.KINDS, (image, mask, index)))
            digests = {column: arrays.content_digest(content[kind]) for kind, column in per_case.KINDS.items()}
            sizes = {"bytes": [a.nbytes for a in content.values()], "start": joined.write(i, content.values())}
            made.extend([{"case": case.id, "patient": case.patient, **about, **digests, **sizes}])
    base.write_manifest(folder, per_case.LAYOUT, made.rows(), recipe, name=dataset.name, synthetic=False)


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


def _noted(work) -> tuple[float, str, object]:
    """Return (seconds, a note about its CPU seconds, the result) of a function."""
    before = _processor_seconds()
    seconds, result = _timed(work)
    return seconds, f"{_processor_seconds() - before:.2f} s of processor time", result


def _processor_seconds() -> float:
    """Return the CPU seconds of this process and its finished children, which a busy machine changes less than elapsed time."""
    return sum(os.times()[:4])


def _write(root: Path, noun: str, count: int, edge: int) -> None:
    """Write the cases in the layout of the data set `folder`; all images differ."""
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


def _engines(options: Options) -> Iterator[Row]:
    """The rows of storage: MiB on disk, seconds to write, and patches per second, for a CT-like volume in each engine."""
    from scipy import ndimage

    from jaxseg.data.store import engines

    edge, patch = (48, 16) if options.quick else (256, 96)
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=(edge,) * 3).astype(np.float32), 3)
    hounsfield = np.rint(smooth / smooth.std() * 200 + random.normal(size=smooth.shape) * 15).astype(np.int16)
    window = (np.clip(hounsfield, -1000, 1000) / 1000).astype(np.float32)
    kinds = {"float32": window, "float16": window.astype(np.float16), "int16": hounsfield}
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder:
        for engine, (write, opened) in {**_stores(engines.ENGINES), **_blosc2()}.items():
            for kind, array in kinds.items():
                array = np.ascontiguousarray(array[..., None])
                path = Path(folder) / f"{engine} {kind}"
                seconds, size = _timed(functools.partial(write, path, array))
                figures = {
                    "on disk": ("MiB", size / 2**20),
                    "written": ("MiB/s", array.nbytes / 2**20 / seconds),
                    "patches": ("patches/s", _patches(opened(path, array), edge, patch, random)),
                }
                for work, (unit, value) in figures.items():
                    yield Row("large", "engines", f"{engine} {kind}, {work}", f"{edge}^3", unit, value, runs=1)


def _stores(engines) -> dict:
    """{engine: (write (path, array) -> bytes, open (path, array) -> an array to read from)}"""
    return {
        name: (
            lambda path, array, engine=engine: engine.write(path, array)[0],
            lambda path, array, engine=engine: engine.open(path, array.dtype, array.shape),
        )
        for name, engine in engines.items()
    }


def _blosc2() -> dict:
    """Return blosc2's (write, open), as nnU-Net stores volumes, if the package is installed."""
    try:
        import blosc2
    except ImportError:
        return {}

    def write(path: Path, array: np.ndarray) -> int:
        chunks = {"chunks": (128, 128, 128, 1), "blocks": (32, 32, 32, 1)}
        blosc2.asarray(array, urlpath=f"{path}.b2nd", mode="w", cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3}, **chunks)
        return Path(f"{path}.b2nd").stat().st_size

    return {"blosc2": (write, lambda path, array: blosc2.open(f"{path}.b2nd", mode="r", dparams={"nthreads": 1}))}


def _patches(array, edge: int, patch: int, random: np.random.Generator, seconds: float = 2.0) -> float:
    """Return the patches read per second at random positions; the file is in the system's cache."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds or count < 2:
        box = tuple(slice(start, start + patch) for start in random.integers(0, edge - patch, 3))
        np.array(array[box])
        count += 1
    return count / (time.perf_counter() - begin)
