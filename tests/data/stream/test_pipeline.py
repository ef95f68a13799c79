"""The order of samples is a pure function of (seed, position), whatever reads them."""

import multiprocessing
import os
import signal
import threading
from types import SimpleNamespace

import grain
import numpy as np
import pytest
from absl import flags

from jaxseg.data.records import Recipe
from jaxseg.data.store import stacked as caches
from jaxseg.data.stream import pipeline
from jaxseg.types import ConfigError, DataError, PeerError
from jaxseg.utils import command

N = 37


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """37 examples in a folder; image i is filled with i."""
    folder = tmp_path_factory.mktemp("cache")
    return write_cache(folder)


def write_cache(folder, n=N, size=(4, 4)):
    recipe = Recipe(size=tuple(size), window=None, spacing=None, channels=1, labels=("a",))
    with caches.Writer(folder, recipe) as writer:
        for i in range(n):
            writer.add(np.full((*size, 1), i), np.full(size, i % 2), {"case": f"case{i}", "slice": 0})
        writer.finish(name="toy", synthetic=True)
    return caches.open_cache(folder)


@pytest.fixture
def parsed():
    """absl's flags as after absl.app.run: Grain's processes ask for them."""
    was = flags.FLAGS.is_parsed()
    flags.FLAGS.mark_as_parsed()
    yield
    if not was:
        flags.FLAGS.unparse_flags()


def take(cache, count, indices=None, **options):
    options = {"batch_size": 8, "seed": 3, **options}
    with pipeline.train_batches(cache, np.arange(N) if indices is None else indices, **options) as batches:
        return [next(batches) for _ in range(count)]


def order(batches):
    return [b["index"].tolist() for b in batches]


def test_a_batch_holds_the_rows_that_its_index_names(cache):
    for batch in take(cache, 6):
        assert batch["image"].shape == (8, 4, 4, 1) and batch["image"].dtype == batch["mask"].dtype == np.uint8
        assert batch["index"].dtype == np.int64
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["mask"][:, 3, 3], batch["index"] % 2)
        assert "weight" not in batch


def test_an_epoch_has_no_row_twice_and_every_epoch_its_own_order(cache):
    found = order(take(cache, 12))  # 37 // 8 = 4 batches an epoch
    epochs = [sum(found[i : i + 4], []) for i in (0, 4, 8)]
    assert all(len(set(e)) == 32 for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert pipeline.steps_per_epoch(N, 8) == 4


def test_the_seed_decides_and_seeds_do_not_run_into_each_other(cache):
    assert order(take(cache, 4)) == order(take(cache, 4)) != order(take(cache, 4, seed=4))
    first = [order(take(cache, 8, seed=s)) for s in range(3)]
    assert first[0][4:] != first[1][:4]  # epoch 1 of seed 0 is not epoch 0 of seed 1


def test_the_order_is_the_same_on_every_machine_and_version():
    assert pipeline.permutation(8, 3, 1).tolist() == GOLDEN


GOLDEN = [7, 3, 5, 6, 4, 0, 2, 1]  # drawn 2026-11-21; a change breaks every resumed run


def test_a_permutation_is_fair():
    where = np.array([pipeline.permutation(5, 0, e) for e in range(2000)])
    counts = np.array([[np.sum(where[:, i] == j) for j in range(5)] for i in range(5)])
    assert np.abs(counts - 400).max() < 90  # 5 sigma of a binomial(2000, 1/5)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(cache, parsed, workers):
    assert order(take(cache, 9, workers=workers)) == order(take(cache, 9))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_contiguous_blocks_of_the_same_batches(cache, processes):
    parts = [order(take(cache, 6, process_index=p, process_count=processes)) for p in range(processes)]
    assert [sum((part[i] for part in parts), []) for i in range(6)] == order(take(cache, 6))


@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_restart_continues_the_uninterrupted_stream(cache, start):
    assert order(take(cache, 4, start_batch=start)) == order(take(cache, 11))[start : start + 4]


@pytest.mark.fault("F7")
def test_a_restart_with_other_workers_and_processes_continues_too(cache, parsed):
    with pipeline.train_batches(cache, np.arange(N), batch_size=8, seed=3) as batches:
        before = [next(batches) for _ in range(3)]
        position = batches.position
    after = order(take(cache, 3, start_batch=position, workers=2, process_index=1, process_count=2))
    whole = order(take(cache, 6))
    assert order(before) == whole[:3] and after == [b[4:] for b in whole[3:]]


def test_only_the_given_rows_are_drawn_and_max_samples_spreads_evenly(cache):
    odd = np.arange(1, N, 2)
    assert {i for b in order(take(cache, 9, indices=odd, batch_size=6)) for i in b} <= set(odd.tolist())
    few = {i for b in order(take(cache, 4, max_samples=4, batch_size=4)) for i in b}
    assert few == {0, 9, 18, 27}


def test_sizes_that_do_not_fit_are_refused_with_sizes_that_do(cache):
    with pytest.raises(ConfigError, match="set 6, 9"):
        take(cache, 1, process_count=3)
    with pytest.raises(ConfigError, match="got 5 training examples for train.batch_size=8"):
        take(cache, 1, indices=np.arange(5))
    with pytest.raises(ConfigError, match="training split is empty"):
        take(cache, 1, indices=[])
    with pytest.raises(ConfigError, match="1 of them repeated"):
        take(cache, 1, indices=[*range(10), 3])
    with pytest.raises(ConfigError, match="store of 37"):
        take(cache, 1, indices=np.arange(40))
    with pytest.raises(ConfigError, match="process_index=2"):
        take(cache, 1, process_index=2, process_count=2)


def test_workers_before_the_flags_are_parsed_are_refused(cache):
    if flags.FLAGS.is_parsed():
        flags.FLAGS.unparse_flags()
    with pytest.raises(ConfigError, match="mark_as_parsed"):
        take(cache, 1, workers=2)


def test_a_mistake_in_our_code_is_not_called_changed_data(cache, monkeypatch):
    monkeypatch.setattr(pipeline.Share, "of", lambda self, batch: batch.nothing)
    with pytest.raises(AttributeError, match="nothing"):
        take(cache, 1)


def test_a_file_that_cannot_be_read_is_named_with_its_batch(cache, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pipeline, "_read", broken)
    with pytest.raises(DataError, match="cannot read batch 0 .*Input/output error"):
        take(cache, 1)


def test_an_interrupt_that_a_callback_swallowed_ends_the_stream(cache, monkeypatch):
    monkeypatch.setattr(command, "_pressed", 1)
    with pytest.raises(KeyboardInterrupt):
        take(cache, 1)


def test_a_closed_stream_gives_no_batch_and_closes_twice(cache):
    batches = pipeline.train_batches(cache, np.arange(N), batch_size=8, seed=0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_evaluation_sees_every_row_once_in_order_padded_at_weight_0(cache):
    rows = np.array([5, 3, 30, 2, 9, 11, 1, 0, 36, 20])
    with pipeline.eval_batches(cache, rows, batch_size=4) as batches:
        assert len(batches) == 3
        found = list(batches)
    assert order(found) == [[5, 3, 30, 2], [9, 11, 1, 0], [36, 20, 20, 20]]
    assert [b["weight"].tolist() for b in found] == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert found[0]["weight"].dtype == np.float32
    parts = [list(pipeline.eval_batches(cache, rows, batch_size=4, process_index=p, process_count=2)) for p in range(2)]
    for i in range(3):
        for key in ("index", "weight", "image"):
            np.testing.assert_array_equal(np.concatenate([part[i][key] for part in parts]), found[i][key])
    assert list(pipeline.eval_batches(cache, [], batch_size=4)) == []


def broken_cache(folder):
    """A cache whose images file shrinks after it was opened by the main process."""
    folder.mkdir()
    cache = write_cache(folder)
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-1])
    return cache


@pytest.mark.fault("D25")
def test_a_worker_that_cannot_read_names_the_folder_and_rows(tmp_path, parsed):
    with pytest.raises(DataError, match=r"batch 0 \(rows \[.*damaged") as error:
        take(broken_cache(tmp_path / "c"), 1, workers=1)
    assert error.value.code == "DATA_CHANGED"


def test_a_bad_example_is_reported_with_its_case(cache, monkeypatch):
    def fail(*_, **__):
        raise OSError("input/output error")

    monkeypatch.setattr(pipeline.np, "take", fail)
    with pytest.raises(DataError, match=r"cases case\d+, .*input/output error"):
        take(cache, 1)


def worker_pids():
    return [p.pid for p in multiprocessing.active_children()]


@pytest.mark.fault("F20")
def test_a_killed_worker_is_replaced_and_the_stream_is_unchanged(cache, parsed):
    with pipeline.train_batches(cache, np.arange(N), batch_size=8, seed=3, workers=1) as batches:
        found = [next(batches)]
        for pid in worker_pids():
            os.kill(pid, signal.SIGKILL)
        found += [next(batches) for _ in range(5)]
    assert order(found) == order(take(cache, 6))
    assert not worker_pids()


@pytest.mark.fault("F10")
def test_workers_survive_a_signal_to_the_group(cache, parsed):
    with pipeline.train_batches(cache, np.arange(N), batch_size=8, seed=3, workers=1) as batches:
        found = [next(batches)]
        before = worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        found += [next(batches) for _ in range(5)]
        assert before and worker_pids() == before
    assert order(found) == order(take(cache, 6))


def test_a_worker_whose_trainer_died_before_it_was_ready_ends(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(pipeline.signal, "signal", lambda *_: None)
    monkeypatch.setattr(pipeline.multiprocessing, "parent_process", lambda: SimpleNamespace(pid=os.getpid()))  # not our parent
    monkeypatch.setattr(pipeline.os, "_exit", lambda code: ended.set())
    pipeline._prepare_worker(0, 1)
    assert ended.wait(5)


@pytest.mark.fault("F20")
def test_workers_that_die_again_and_again_end_the_run(cache, parsed, monkeypatch):
    class Dead:
        def __next__(self):
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")

        def close(self):
            pass

    monkeypatch.setattr(pipeline.Batches, "_open", lambda self: Dead())
    with pytest.raises(PeerError, match="killed 4 times at batch 0 .cases case"):
        take(cache, 1, workers=1)


class Inverted(grain.transforms.Map):
    def map(self, element):
        return {**element, "image": 255 - element["image"]}


def first_row(batch):
    return batch["image"][:1]


@pytest.mark.parametrize("workers", [0, 1])
def test_stages_of_others_follow_the_reading_in_their_order(cache, parsed, workers):
    plain = take(cache, 3, start_batch=4)
    options = dict(batch_size=8, seed=3, start_batch=4, workers=workers)
    with pipeline.train_batches(cache, np.arange(N), **options, transforms=(Inverted(), first_row)) as batches:
        for batch in plain:
            np.testing.assert_array_equal(next(batches), 255 - batch["image"][:1])


def test_a_batch_copies_its_own_rows_only(cache):
    batch = take(cache, 1)[0]
    assert batch["image"].base is None and batch["image"].flags.writeable and type(batch["image"]) is np.ndarray


def stamp(example, index, seed, by=1):
    """A transform of one's own that writes what it is told into the image."""
    image = example["image"].copy()
    image[0, 0, 0], image[0, 1, 0] = index * by, seed
    return {"image": image, "mask": example["mask"]}


def spoil(example, index, seed):
    return {"image": example["image"].astype(np.float32), "mask": example["mask"]}


OWN = ((f"{__name__}:stamp", {"by": 1}),)


def test_own_transforms_are_told_the_number_of_the_example_wherever_the_stream_begins(cache):
    plain, stamped = take(cache, 4), take(cache, 4, own=OWN)
    for position, (a, b) in enumerate(zip(plain, stamped)):
        assert (
            b["image"][:, 0, 0, 0].tolist() == list(range(8 * position, 8 * position + 8)) and (b["image"][:, 0, 1, 0] == 3).all()
        )
        np.testing.assert_array_equal(a["image"][:, 1:], b["image"][:, 1:])
        assert a["index"].tolist() == b["index"].tolist()
    np.testing.assert_array_equal(take(cache, 1, own=OWN, start_batch=3)[0]["image"], stamped[3]["image"])
    shares = [take(cache, 2, own=OWN, process_index=p, process_count=2)[1]["image"] for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(shares), stamped[1]["image"])


def test_an_own_transform_that_changes_a_dtype_or_is_given_an_unknown_option_is_refused(cache):
    with pytest.raises(ConfigError, match=r"spoil must return .* unchanged, uint8 \(4, 4, 1\); got float32"):
        take(cache, 1, own=((f"{__name__}:spoil", {}),))
    with pytest.raises(ConfigError, match="unknown option of host transform .*: did you mean by"):
        take(cache, 1, own=((f"{__name__}:stamp", {"byy": 2}),))
