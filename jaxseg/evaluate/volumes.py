"""Volumes of a store, and slices and pictures of their own sizes, scored on the prepared grid: the validation of a training run,
example by example through the sliding window.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxseg.data.store.per_case import PerCase
from jaxseg.evaluate import slices
from jaxseg.evaluate.scoring import Example, MeanLoss, Rules, Scored, score
from jaxseg.infer import network as networks
from jaxseg.infer.labels import labels_of
from jaxseg.metrics.counts import Counts
from jaxseg.utils.pictures import panel, to_8bit

SIDE = 768  # pixels that the longer side of a shown picture has at most


class VolumeScorer:
    """Scores weights of one network over the examples of a store.

    Args:
      network: how the network is applied.
      loss: from `losses.compose.build`.
      rules: what is scored.
      target: labels [1, *S] -> what the loss compares with (regions).
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

    def run(self, params: dict, state: dict, store: PerCase, rows: np.ndarray, *, keep: int = 0) -> Scored:
        """Score the examples `rows` of a store, and keep the first `keep` predictions for pictures.

        Raises:
          DataError: no rows.
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


def headline(scored: Scored, rules: Rules, *, rank: int = 3) -> dict[str, float]:
    """The figures of a validation: loss; mean Dice, recall and so on over regions (classes); Dice of each; voxels predicted.

    Those of slices and pictures (rank 2) are `slices.headline`, whatever their sizes.
    """
    if rank == 2:
        of_class = [[row for row in scored.rows if row["class"] == name] for name in rules.classes]
        counts = Counts(*(np.array([[row[key] for row in rows] for rows in of_class], np.int64).T for key in Counts._fields))
        return slices.headline(counts, scored.loss, empty=rules.policy.empty)

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


def pictures(scored: Scored, store: PerCase) -> list[np.ndarray]:
    """Input, truth, prediction and errors of the kept examples; of volumes the slice with most foreground, upright."""
    found = []
    for i, labels in scored.kept.items():
        image, mask = store.image(i), np.asarray(store.mask(i))
        if store.rank == 2:
            step = -(-max(mask.shape) // SIDE)
            image, mask, labels = (np.asarray(a[::step, ::step]) for a in (image, mask, labels))
            shown = image if image.dtype == np.uint8 else to_8bit(image, *np.percentile(image, (1, 99)))
            found.append(panel(shown, mask, labels))
            continue
        z = int(((mask > 0) | (labels > 0)).sum((0, 1)).argmax())
        last = max(len(store.recipe.modalities), 1) - 1  # coordinates may follow
        grey = np.asarray(image[:, :, z, last], np.float32).T  # [Y, X]: rows run front to back, columns right to left
        low, high = np.percentile(grey, (1, 99))
        grey = np.uint8(np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255)
        found.append(panel(grey[..., None], mask[:, :, z].T, labels[:, :, z].T))
    return found
