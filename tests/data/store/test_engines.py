"""Storage engines: every bit comes back, from files and from memory, and a store does not depend on its engine."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data.store import arrays, engines, parts, per_case, stacked
from jaxseg.data.stream import patches, pipeline
from jaxseg.evaluate import baseline
from jaxseg.types import DataError, StorageError
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
        if engine.ending == ".npy":
            np.save(tmp_path / "numpy.npy", array)
            assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
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


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_float16_halves_the_images_and_says_how_far_it_moves_them(tmp_path, monkeypatch, engine):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parts, "LITTLE", 0)
    dataset, lines = toy_set.make(tmp_path / "d", 2), []
    whole = per_case.open_or_build(dataset, RECIPE, log=lambda line: None, engine=engine)
    half = per_case.open_or_build(dataset, RECIPE, log=lines.append, engine=engine, stored="float16")
    assert per_case.open_store(half.folder).stored == "float16" and whole.folder != half.folder
    changes = [np.abs(half.image(i) - whole.image(i)).max() for i in range(2)]
    for i in range(2):
        assert half.image(i).dtype == half.read(i)[0].dtype == np.float32
        np.testing.assert_array_equal(half.image(i), whole.image(i).astype(np.float16))
        np.testing.assert_array_equal(half.mask(i), whole.mask(i))
    assert 0 < max(changes) < 5e-4 and f"stored in float16, which changed values by at most {max(changes):.3g}" in str(lines)
    if engine == "memmap":
        sizes = [store.rows.columns["bytes"][0, 0] - 128 for store in (half, whole)]
        assert 2 * sizes[0] == sizes[1]
    with pytest.raises(DataError, match="up to 70000; float16 holds at most 65504"):
        arrays.as_half(np.full((2, 2), 7e4, np.float32), "c1")


def test_arrays_at_an_address_are_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    dataset = toy_set.make(tmp_path / "d", 2)
    build = lambda **at: per_case.open_or_build(dataset, RECIPE, log=lambda line: None, engine="zarr3", **at)
    here = build()
    for address in (f"file://{tmp_path}/there/", "memory://bucket/folder"):  # TensorStore's stand-ins for object storage
        there = build(address=address)
        assert there.folder != here.folder and not list(there.folder.rglob("*.zarr"))
        opened = per_case.open_store(there.folder)
        for i in range(2):
            for one, other in zip(here.read(i), opened.read(i)):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(here.image(i), opened.image(i))
            np.testing.assert_array_equal(here.foreground(i, 1), opened.foreground(i, 1))
        opened.verify()
    shard = next(path for path in (tmp_path / "there").rglob("0") if "000001.mask" in str(path) and path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="the mask of example 1 .*has changed"):
        per_case.open_store(build(address=f"file://{tmp_path}/there/").folder).read(1)
    with pytest.raises(StorageError, match="^foo://x/.*unsupported URL scheme.*check the address, the network"):
        build(address="foo://x")


def test_stacked_slices_and_their_batches_are_the_same_with_either_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "SHARD", 3 * 16 * 24)  # three masks to a file
    dataset = toy_set.make(tmp_path / "d", 4)
    mapped, chunked = (
        stacked.open_or_build(dataset, toy_set.RECIPE, log=lambda line: None, engine=engine) for engine in engines.ENGINES
    )
    assert mapped.folder != chunked.folder and mapped.digest == chunked.digest and len(mapped) > 3
    for i in range(len(mapped)):
        for name in ("image", "mask", "index"):
            np.testing.assert_array_equal(getattr(mapped, name)(i), getattr(chunked, name)(i))
    chunked.verify()
    rows = np.arange(len(mapped))
    found = [
        (next(pipeline.train_batches(store, rows, batch_size=4, seed=1)), baseline.histograms(store.images, store.masks, rows, 1))
        for store in (mapped, chunked)
    ]
    for name, value in found[0][0].items():
        np.testing.assert_array_equal(value, found[1][0][name])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert len([path for path in (chunked.folder / "masks.zarr").rglob("*") if path.is_file()]) > 2
