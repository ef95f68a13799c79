"""Storage engines: every bit comes back, from files and from memory, and a store does not depend on its engine."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data.store import engines, per_case
from jaxseg.data.stream import patches
from jaxseg.types import DataError
from tests.data import toy_set

RECIPE = dataclasses.replace(toy_set.RECIPE, size=(8, 8, 4), intensity="ct", fit="patches")
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "volume": RANDOM.normal(size=(40, 33, 5, 2)).astype(np.float32),
    "labels": RANDOM.integers(0, 300, (40, 33, 5)).astype(np.uint16),
    "picture": RANDOM.integers(0, 255, (150, 40, 3)).astype(np.uint8),
    "index": np.arange(70_000, dtype=np.uint32),
    "nothing": np.zeros(0, np.uint32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_bit_comes_back_from_files_and_from_memory(tmp_path, name):
    array = ARRAYS[name]
    box = tuple(slice(3, 999) for _ in range(min(array.ndim, 3)))
    engines.create(kvstore := {"driver": "file", "path": f"{tmp_path}/direct.zarr/"}, array)
    memory = {"driver": "memory", "path": "x/"}
    for store in (kvstore, memory):
        if store is memory:
            import tensorstore

            context = tensorstore.Context()
            engines.create(store, array, context)
            found = engines.Chunks(store, context)
        else:
            found = engines.Chunks(store)
        assert (found.dtype, found.shape, len(found)) == (array.dtype, array.shape, len(array))
        np.testing.assert_array_equal(np.asarray(found), array)
        np.testing.assert_array_equal(found[box], array[box])
        assert not found[box].flags.writeable
    for engine in engines.ENGINES.values():
        path = tmp_path / f"x{engine.ending}"
        size, digest = engine.write(path, array)
        assert (engine.size(path), engine.digest(path)) == (size, digest)
        np.testing.assert_array_equal(engine.open(path, array.dtype, array.shape)[()], array)
        with pytest.raises(DataError, match="is .*not.*delete the folder"):
            engine.open(path, np.dtype(np.float64), array.shape or (1,)) if array.size else engine.open(path, array.dtype, (3,))


def test_a_store_and_its_patches_are_the_same_with_either_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    dataset = toy_set.make(tmp_path / "d", 4)
    build = lambda engine: per_case.open_or_build(dataset, RECIPE, log=lambda line: None, engine=engine)
    mapped, chunked = build("memmap"), build("zarr3")
    assert mapped.folder != chunked.folder and per_case.open_store(chunked.folder).engine == "zarr3"
    for i in range(4):
        for one, other in zip(mapped.read(i), chunked.read(i)):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        np.testing.assert_array_equal(mapped.image(i), chunked.image(i))
        np.testing.assert_array_equal(mapped.foreground(i, 1), chunked.foreground(i, 1))
    read = lambda store: next(patches.patch_batches(store, range(4), batch_size=8, patch=(8, 8, 4), seed=1, share=0.5))
    for name, value in read(mapped).items():
        np.testing.assert_array_equal(value, read(chunked)[name])
    chunked.verify()
    (shard,) = [path for path in (chunked.folder / "000" / "000001.mask.zarr").rglob("0") if path.is_file()]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="the mask of example 1 .*has changed"):
        per_case.open_store(chunked.folder).read(1)
