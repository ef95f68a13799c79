"""Batches in an order that depends only on (seed, position), as stages of a Grain pipeline.

The stages are batch numbers, `.map(read)`, the transforms of single examples that a config names (`stages.py`), and one `.map`
for each of the caller's `transforms`: functions Batch -> Batch on the host, or Grain's own `MapTransform`s. Grain runs all of
them in its threads or worker processes.

Grain's `shuffle` is not used, because Grain's shuffle and shards give another stream for every number of processes. Position b of
the training stream is batch b % S of epoch b // S, with S = N // batch_size; an epoch's permutation depends on (seed, epoch),
and process p of P takes the p-th contiguous block of each global batch. The stream does not depend on the numbers of workers and
processes, so that a run resumes bit for bit from the number of the next batch, also if they have changed.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jaxseg.data.store.engines import rows_of
from jaxseg.data.store.stacked import Stacked, open_cache
from jaxseg.data.stream.stages import OwnTransforms
from jaxseg.types import Batch, ConfigError, DataError, PeerError
from jaxseg.utils.command import check_interrupt

ENDLESS = 1 << 48  # batches: Grain needs a length; no run is so long
RESTARTS = 3  # times in a row that a lost worker is replaced before the run gives up


def train_batches(
    cache: Stacked,
    indices: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    max_samples: int = 0,
    transforms: Sequence[Callable[[Batch], Batch]] = (),
    own: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> "Batches":
    """Return this process's part of an endless stream of shuffled batches; close it, or use it in a `with` block.

    Args:
      cache: the store of the examples.
      indices: row numbers of the training split.
      batch_size: B, the global batch size; each process yields b = B / process_count.
      seed: random seed of the order.
      start_batch: position of the first batch, 0 for a fresh run.
      workers: number of reading processes; 0: a thread reads ahead, which is usually fast enough for a memory-mapped store.
      process_index, process_count: this process and how many there are.
      max_samples: use at most this many of the indices, evenly spaced; 0 for all.
      transforms: further stages, Batch -> Batch, in their order; with workers they must be picklable.
      own: config.data.transforms, ((path, options), ...), which come before these.
    Returns:
      iterator of Batch: image uint8 [b, h, w, C], mask uint8 [b, h, w], index int64 [b] (row numbers of the cache).
    Raises:
      ConfigError: sizes do not fit each other, or there are workers before absl's flags are parsed.
    """
    rows = training_rows(indices, cache, max_samples)
    share = share_of(batch_size, process_index, process_count)
    examples = OwnTransforms(own, seed=seed, batch_size=batch_size, first=share.first) if own else None
    order = _Order(rows, batch_size, share, seed)
    return Batches(Reader(cache, open_cache, order, _read), start_batch, workers, transforms, examples)


def eval_batches(
    cache: Stacked, indices: Sequence[int], *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> "Batches":
    """Return this process's part of a stream of all examples, once and in order, in batches of one size.

    The last batch is padded with its last example at weight 0.

    Returns:
      iterator of ceil(N / batch_size) Batch, each with weight float32 [b], 1 or 0.
    """
    order = _InOrder(_checked(indices, cache), batch_size, share_of(batch_size, process_index, process_count))
    return Batches(Reader(cache, open_cache, order, _read), 0, 0)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of full batches in n examples; the remaining examples of an epoch are not used in it.

    Raises:
      ConfigError: there is not even one full batch.
    """
    if batch_size < 1 or n < batch_size:
        raise ConfigError(
            f"got {n} training examples for train.batch_size={batch_size}; a batch cannot be larger than that: set "
            f"it to {n} or less"
            if n
            else "the training split is empty; check data.fractions and data.protocol"
        )
    return n // batch_size


class Batches:
    """Iterates over batches, knows its `position` (the next batch), and replaces reading processes that are lost."""

    def __init__(
        self,
        reader: "Reader",
        start: int,
        workers: int,
        transforms: Sequence[Callable[[Batch], Batch]] = (),
        examples: OwnTransforms | None = None,
    ):
        if start < 0:
            raise ConfigError(f"got start_batch={start}; must be at least 0")
        if workers < 0:
            raise ConfigError(f"got data.workers={workers}; must be at least 0")
        if workers and not flags.FLAGS.is_parsed():
            raise ConfigError(
                f"data.workers={workers} needs parsed absl flags: start through jaxseg.main or absl.app.run; in a "
                "notebook call absl.flags.FLAGS.mark_as_parsed(); or set data.workers=0"
            )
        self.position, self._reader, self._workers, self._transforms, self._examples = (
            start,
            reader,
            workers,
            transforms,
            examples,
        )
        self._lost, self._closed = 0, False
        self._iterator = self._open()

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise ValueError("these batches are closed")
        while True:
            check_interrupt()
            try:
                batch = next(self._iterator)
            except RuntimeError as error:
                if not self._workers or "terminated unexpectedly" not in str(error):
                    raise
                self._lost += 1
                if self._lost > RESTARTS:
                    where = f"batch {self.position} ({self._reader.about(self.position)})"
                    raise PeerError(
                        f"reading processes were killed {self._lost} times at {where}: {error}; out of memory? set data.workers=0"
                    ) from error
                self._iterator.close()
                self._iterator = self._open()
            else:
                self._lost = 0
                self.position += 1
                return batch

    def close(self) -> None:
        """Stop the threads and processes; may be called twice."""
        if not self._closed:
            self._closed = True
            self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _open(self):
        import grain  # half a second with Orbax, which every command that reads no batches would wait for

        dataset = grain.MapDataset.range(self.position, len(self._reader)).map(self._reader)
        if self._examples is not None:
            dataset = dataset.map_with_index(_Numbered(self._examples, self.position))
        for transform in self._transforms:
            dataset = dataset.map(transform)
        ahead = 1 if self._workers else 2
        stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead))
        if self._workers:
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2), worker_init_fn=_prepare_worker
            )
        return iter(stream)


def _prepare_worker(worker: int, count: int) -> None:
    """Let a worker ignore signals to the process group: the trainer handles them, saves, and then closes its workers.

    A worker ends by itself when its parent was killed, even if that happened while the worker started (its parent would then be
    another process, so the parent's number is taken from the trainer).
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().pid,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class _Numbered:
    """A stage that gets the number of its batch in the stream, while Grain counts from the first batch that is read."""

    def __init__(self, stage: OwnTransforms, first: int):
        self._stage, self._first = stage, first

    def __call__(self, index: int, batch: Batch) -> Batch:
        return self._stage(self._first + int(index), batch)


class Share(NamedTuple):
    """Which part of a global batch is this process's."""

    first: int
    size: int

    def of(self, batch: np.ndarray) -> np.ndarray:
        return batch[self.first : self.first + self.size]


class _Order:
    """Maps a position to this process's rows of the shuffled, endless stream."""

    def __init__(self, rows: np.ndarray, batch_size: int, share: Share, seed: int):
        self.rows, self.batch_size, self.share, self.seed = rows, batch_size, share, int(seed) % 2**64
        self.steps = steps_per_epoch(len(rows), batch_size)
        self._latest = (-1, None)

    def __len__(self) -> int:
        return ENDLESS

    def __call__(self, position: int) -> tuple[np.ndarray, None]:
        epoch, step = divmod(position, self.steps)
        latest, order = self._latest
        if latest != epoch:
            order = permutation(len(self.rows), self.seed, epoch)
            self._latest = (epoch, order)
        start = step * self.batch_size
        return self.rows[self.share.of(order[start : start + self.batch_size])], None


class _InOrder:
    """Maps a position to this process's rows and weights of one ordered pass."""

    def __init__(self, rows: np.ndarray, batch_size: int, share: Share):
        self.rows, self.batch_size, self.share = rows, batch_size, share

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = self.share.of(np.arange(position * self.batch_size, (position + 1) * self.batch_size))
        return self.rows[np.minimum(wanted, len(self.rows) - 1)], (wanted < len(self.rows)).astype(np.float32)


class Reader:
    """The reading stage: batch number -> Batch. It is pickled without arrays; a worker process opens the folder again.

    Args:
      held: the store to read from, with `folder` and `rows` (dicts with a "case").
      reopen: opens the store in a folder.
      order: batch number -> (row numbers [b], a further argument of `read`).
      read: (store, row numbers, further argument) -> Batch.
    """

    def __init__(self, held, reopen: Callable, order: Callable, read: Callable):
        self._folder, self._reopen, self._order, self._read, self._held = held.folder, reopen, order, read, held

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_held": None}

    def __len__(self) -> int:
        return len(self._order)

    def __call__(self, position: int) -> Batch:
        rows, rest = self._order(int(position))
        try:
            return self._read(self._opened(), rows, rest)
        except (DataError, OSError) as error:
            raise DataError(
                f"cannot read batch {position} ({self.about(position)}): {error}", getattr(error, "code", "DATA_CHANGED")
            ) from error

    def about(self, position: int) -> str:
        """Return the rows of a batch and, if the store can be read, their cases, for a message."""
        rows = self._order(position)[0]
        try:
            cases = sorted({self._opened().rows[i]["case"] for i in rows})
        except Exception:
            return f"rows {rows.tolist()} of {self._folder}"
        return f"cases {', '.join(cases[:8])}{', ...' if len(cases) > 8 else ''}; rows {rows[:8].tolist()}"

    def _opened(self):
        self._held = self._held or self._reopen(self._folder)
        return self._held


def _read(cache: Stacked, rows: np.ndarray, weight: np.ndarray | None) -> Batch:
    for row in rows.tolist():
        cache.check(row)
    image, mask = rows_of(cache.images, rows), rows_of(cache.masks, rows)
    batch = Batch(image=image, mask=mask, index=rows)
    if cache.targets is not None:
        batch["target"] = rows_of(cache.targets, rows)
    return batch if weight is None else Batch(**batch, weight=weight)


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a random order of n rows, int64 [n]: the ranks of Philox words with the key (seed, epoch).

    numpy guarantees the raw words of a bit generator for all versions, but not the results of `Generator.permutation`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable")


def training_rows(indices: Sequence[int], held, max_samples: int) -> np.ndarray:
    """Return the rows to train on, int64: `indices`, or `max_samples` evenly spaced ones of them if that is above 0.

    Raises:
      ConfigError: rows are repeated or outside of the store, or max_samples is below 0.
    """
    rows = _checked(indices, held)
    if max_samples < 0:
        raise ConfigError(f"got max_samples={max_samples}; must be at least 0 (0: use all)")
    return rows[np.arange(max_samples) * len(rows) // max_samples] if 0 < max_samples < len(rows) else rows


def _checked(indices: Sequence[int], held) -> np.ndarray:
    rows, n = np.asarray(indices, np.int64).reshape(-1), len(held.rows)
    if rows.size and (rows.min() < 0 or rows.max() >= n or len(np.unique(rows)) != rows.size):
        raise ConfigError(
            f"got rows {rows.min()}..{rows.max()}, {rows.size - len(np.unique(rows))} of them repeated, for a "
            f"store of {n}; a split must list each row once"
        )
    return rows


def share_of(batch_size: int, process_index: int, process_count: int) -> Share:
    """Return the contiguous block of a global batch that belongs to one of the processes.

    Raises:
      ConfigError: there is no such process, or the batch size is not divisible by the number of processes.
    """
    if not 0 <= process_index < process_count:
        raise ConfigError(f"got process_index={process_index} of {process_count} processes; must be 0 to {process_count - 1}")
    if batch_size < 1 or batch_size % process_count:
        below = batch_size // process_count * process_count
        fit = ", ".join(str(b) for b in (below, below + process_count) if b > 0)
        raise ConfigError(
            f"got batch_size={batch_size} for {process_count} processes; must be divisible by their number: set {fit}"
        )
    size = batch_size // process_count
    return Share(process_index * size, size)
