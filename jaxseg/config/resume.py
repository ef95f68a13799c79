"""What may change between two starts of one run."""

from ml_collections import ConfigDict

from jaxseg.config.keys import NEUTRAL


def neutral(config: ConfigDict) -> frozenset[str]:
    """The keys in which a later start may differ: those that decide no number of the training.

    Where a Dice or recall decides which checkpoint is best, and when the plateau lowers the rate, what decides that score must
    stay: the threshold, and for volumes the score of empty masks.
    """
    deciding = set()
    if config.train.best in ("val_dice", "val_recall"):
        deciding = {"eval.threshold", "eval.empty"} if config.data.rank == 3 else {"eval.threshold"}
    return frozenset(NEUTRAL) - deciding
