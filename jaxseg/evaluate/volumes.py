"""Volumes of a store scored on the prepared grid: the validation of a training run, case by case through the sliding window."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxseg.data.store.base import Store
from jaxseg.evaluate.scoring import Example, MeanLoss, Rules, Scored, score
from jaxseg.infer import network as networks
from jaxseg.infer.labels import labels_of
from jaxseg.utils.pictures import panel


class Scorer:
    """Scores weights of one network over volumes of a store.

    Args:
      network: how the network is applied.
      loss: from `losses.compose.build`.
      rules: what is scored.
      target: labels [1, X, Y, Z] -> what the loss compares with (regions).
      order: the class each region writes, for region heads; () for classes.
      threshold: of the foreground's probability, for one class, and of each region's.
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

    def run(self, params: dict, state: dict, store: Store, rows: np.ndarray, *, keep: int = 0) -> Scored:
        """Score the volumes `rows` of a store, and keep the first `keep` predictions for pictures.

        Raises:
          DataError: no rows.
        """
        weights = (self._network.forward.place(params, state),)
        self._loss.reset()

        def examine(i: int) -> Iterator[Example]:
            row, truth = store.rows[i], np.asarray(store.mask(i))
            logits = self._network(weights, store.image(i)[None])
            self._loss.add(logits, truth[None])
            about = {"case": row["case"], "patient": row["patient"], "row": int(i)}
            yield Example(about, labels_of(logits[0], order=self._order, threshold=self._threshold), truth, tuple(row["spacing"]))

        return score(rows.tolist(), examine, self._rules, keep=keep)._replace(loss=self._loss.mean())


def headline(scored: Scored, rules: Rules) -> dict[str, float]:
    """The figures of a validation: loss; mean Dice, recall and so on over regions (classes); Dice of each; voxels predicted."""

    def mean(key: str, names: Sequence[str]) -> float:
        cases: dict[str, list[float]] = {}
        for row in scored.rows:
            if row["class"] in names:
                cases.setdefault(row["case"], []).append(row[key])
        values = [np.nanmean(v) for v in cases.values() if not np.isnan(v).all()]
        return float(np.mean(values)) if values else 0.0

    names = list(dict.fromkeys(row["class"] for row in scored.rows))
    overlaps = {f"val_{key}": mean(key, rules.headline) for key in ("dice", "iou", "precision", "recall")}
    return {
        "val_loss": scored.loss,
        **overlaps,
        **{f"val_{name.lower()}": mean("dice", [name]) for name in names},
        "positive": int(scored.confusion[:, 1:].sum()),
    }


def pictures(scored: Scored, store: Store) -> list[np.ndarray]:
    """Input, truth, prediction and errors of the slice with most foreground, upright, of the kept volumes."""
    found = []
    for i, labels in scored.kept.items():
        image, mask = store.image(i), np.asarray(store.mask(i))
        z = int(((mask > 0) | (labels > 0)).sum((0, 1)).argmax())
        last = max(len(store.recipe.modalities), 1) - 1  # coordinates may follow
        grey = np.asarray(image[:, :, z, last], np.float32).T  # [Y, X]: rows run front to back, columns right to left
        low, high = np.percentile(grey, (1, 99))
        grey = np.uint8(np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255)
        found.append(panel(grey[..., None], mask[:, :, z].T, labels[:, :, z].T))
    return found
