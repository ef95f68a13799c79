"""check_metric: the contract of a score of your own, which evaluations report beside theirs."""

import math
from collections.abc import Callable

import numpy as np

from jaxseg.testing.expectation import part_of

SHAPES = {2: (12, 15), 3: (9, 8, 7)}


def check_metric(metric: str | Callable, *, ranks: tuple[int, ...] = (2, 3)) -> None:
    """Check the properties of a score on which an evaluation relies.

    It returns one number for a mask and its truth, and the same number when it is called again; NaN only if a mask is empty; it
    does not change its inputs; a perfect prediction and a wrong one have different scores.

    Args:
      metric: your function (prediction, truth, spacing) -> float: boolean arrays [*S] and the mm per voxel of each axis; or its
        path "module:name".
      ranks: the numbers of spatial axes that it supports.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(metric, "metric")
    for rank in ranks:
        shape, spacing = SHAPES[rank], (1.0, 0.5, 2.0)[:rank]
        truth, wrong, nothing = (np.zeros(shape, bool) for _ in range(3))
        truth[tuple(slice(2, n // 2) for n in shape)] = True
        wrong[tuple(slice(n // 2, n - 1) for n in shape)] = True

        def value(prediction: np.ndarray, truth: np.ndarray, what: str, spacing=spacing) -> float:
            masks = prediction.copy(), truth.copy()
            found = part.attempt(what, part.object, *masks, spacing)
            one = np.ndim(found) == 0 and np.asarray(found).dtype.kind in "biuf"
            part.expect(one, f"one number for {what}", f"{type(found).__name__} of shape {np.shape(found)}")
            kept = np.array_equal(masks[0], prediction) and np.array_equal(masks[1], truth)
            part.expect(kept, "masks that stay as they are", "changed ones")
            return float(found)

        perfect, missed = value(truth, truth, f"a perfect prediction of rank {rank}"), value(wrong, truth, "a wrong prediction")
        for found, what in ((perfect, "a perfect prediction"), (missed, "a wrong prediction")):
            part.expect(math.isfinite(found), f"a finite number for {what}", f"{found}")
        part.expect(perfect != missed, "another number for a perfect prediction than for a wrong one", f"{perfect} for both")
        again = value(truth, truth, "the same masks again")
        part.expect(again == perfect, f"{perfect} for the same masks again", f"{again}", f"random numbers ({part.place()})")
        for a, b, what in (
            (nothing, truth, "an empty prediction"),
            (truth, nothing, "an empty truth"),
            (nothing, nothing, "empty masks"),
        ):
            found = value(a, b, what)
            part.expect(not math.isinf(found), f"a finite number or NaN for {what}", f"{found}")
