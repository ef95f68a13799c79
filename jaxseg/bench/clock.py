"""Time, fairly: interleaved blocks, medians, and the slope of a cost against the size of the work."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def block(call: Callable, runs: int, finish: Callable) -> float:
    """Milliseconds per call of `runs` calls, finished once at the end: dispatch overlaps work, as in a training loop.

    One call comes first that is not counted: caches and pages of memory are as the other side, or a pause, left them. On a
    virtual machine that hands idle pages back to its host a step of 0.65 s takes 1.65 s after an idle second.
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
    """Median time of each of several competitors, run alternately: a, b, a, b, ..., so that a slow moment falls on all.

    Args:
      blocks: name -> f(runs), which makes that many calls and gives the milliseconds of one.
      seconds: about how long all rounds together last.
      least: rounds at least; 3 do where a call takes more than two seconds.
      pause: seconds between two blocks, in which the other's idle threads fall asleep.
    Returns:
      name -> (median milliseconds of one call, number of calls measured).
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
    """Least-squares slope of log cost against log size: 1 where the cost grows as the size does."""
    if len(sizes) != len(costs) or len(set(sizes)) < 2:
        raise ValueError(f"got {len(sizes)} sizes ({len(set(sizes))} different) and {len(costs)} costs; a slope needs two points")
    x, y = [math.log(s) for s in sizes], [math.log(c) for c in costs]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)
