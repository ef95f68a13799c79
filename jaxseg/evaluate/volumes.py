"""Score stored volumes, and slices and pictures of any size, on the prepared grid, one example at a time by sliding windows; used
for the validation during training.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxseg.data.store.per_case import PerCase
from jaxseg.evaluate.scoring import Example, MeanLoss, Rules, Scored, score
from jaxseg.infer import network as networks
from jaxseg.infer.labels import labels_of


class VolumeScorer:
    """Scores weights of one network on examples of a store.

    Args:
      network: how the network is applied.
      loss: from `losses.compose.build`.
      rules: classes, regions and scores to compute.
      target: converts labels [1, *S] to the loss's target (regions).
      order: for regions: the class of every combination of regions; () for classes.
      threshold: a probability (0-1): of the foreground for one class, of each region for regions.
    """

    def __init__(
        self,
        network: networks.Application,
        loss: Callable,
        rules: Rules,
        *,
        target: Callable = lambda mask: mask,
        order: Sequence[int] = (),
        threshold: float = 0.5,
    ):
        self._network, self._rules, self._order, self._threshold = network, rules, tuple(order), threshold
        self._loss = MeanLoss(loss, target)

    def run(self, params: dict, state: dict, store: PerCase, rows: np.ndarray, *, keep: int = 0) -> Scored:
        """Score the examples `rows` of a store, and keep the first `keep` predictions for pictures.

        Raises:
          DataError: there are no rows.
        """
        weights = (self._network.forward.place(params, state),)
        self._loss.reset()

        def examine(i: int) -> Iterator[Example]:
            row, truth = store.rows[i], np.asarray(store.mask(i))
            logits = self._network(weights, store.image(i)[None])
            self._loss.add(logits, truth[None])
            about = {key: row[key] for key in ("case", "patient", "slice") if key in row} | {"row": int(i)}
            yield Example(about, labels_of(logits[0], order=self._order, threshold=self._threshold), truth, tuple(row["spacing"]))

        return score(rows.tolist(), examine, self._rules, keep=keep)._replace(loss=self._loss.mean())
