"""Fair timing: interleaved blocks, medians, and the slope of a cost against the size of a task."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def block(call: Callable, runs: int, finish: Callable) -> float:
    """Milliseconds per call of `runs` calls with one wait at the end, so that dispatch overlaps computation as in training.

    An uncounted call comes first, because the other process or a pause has left caches and memory pages in another state. On a
    virtual machine that returns idle pages to its host, a step of 0.65 s takes 1.65 s after an idle second.
    """
    finish(call())
    start = time.perf_counter()
    result = None
    for _ in range(runs):
        result = call()
    finish(result)
    return 1e3 * (time.perf_counter() - start) / runs


def interleaved(
    blocks: Mapping[str, Callable[[int], float]], *, seconds: float, least: int = 5, pause: float = 0.02
) -> dict[str, tuple[float, int]]:
    """Median times of several functions that run alternately (a, b, a, b, ...), so that a slow moment affects all of them.

    Args:
      blocks: {name: f}, where f(runs) makes this number of calls and returns the milliseconds per call.
      seconds: approximate time of all rounds together.
      least: smallest number of rounds; 3 if a call takes more than two seconds.
      pause: seconds between two blocks, in which idle threads of the other one fall asleep.
    Returns:
      {name: (median milliseconds of one call, number of measured calls)}.
    """
    once = {name: f(1) for name, f in blocks.items()}
    least = least if max(once.values()) < 2000 else min(least, 3)
    runs = {name: max(1, min(1000, math.ceil(100 / max(ms, 1e-3)))) for name, ms in once.items()}  # blocks of 0.1 s
    times: dict[str, list[float]] = {name: [] for name in blocks}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < least:
        for name, f in blocks.items():
            time.sleep(pause)
            times[name].append(f(runs[name]))
    return {name: (statistics.median(t), len(t) * runs[name]) for name, t in times.items()}


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Least-squares slope of log cost against log size; 1 means that the cost is proportional to the size."""
    if len(sizes) != len(costs) or len(set(sizes)) < 2:
        raise ValueError(
            f"got {len(sizes)} sizes ({len(set(sizes))} different) and {len(costs)} costs; "
            "must be two or more sizes and as many costs"
        )
    x, y = [math.log(s) for s in sizes], [math.log(c) for c in costs]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)
