"""The keys that may change between two starts of one run."""

from ml_collections import ConfigDict

from jaxseg.config.keys import NEUTRAL


def neutral(config: ConfigDict) -> frozenset[str]:
    """The keys that a resumed run may change, because they do not affect its training.

    Where Dice or recall chooses the best checkpoint and drives the plateau schedule, the keys that affect this score must not
    change: the threshold, and for volumes the score of empty masks.
    """
    deciding = set()
    if config.train.best in ("val_dice", "val_recall"):
        deciding = {"eval.threshold", "eval.empty"} if config.data.rank == 3 else {"eval.threshold"}
    return frozenset(NEUTRAL) - deciding
