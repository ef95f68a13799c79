"""Is a revision of EffiSegNet's recipe better than the recipe, by more than its seeds differ? Five seeds of both, side by side.

    python -m jaxseg.main --mode=compare --config=configs/kvasir_compare.py                                  # the phantom
    python -m jaxseg.main --mode=compare --config=configs/kvasir_compare.py:b4 --config.data.root=/data/Kvasir-SEG
    python -m jaxseg.main --mode=compare --config=configs/kvasir_compare.py:b4,all --config.data.root=...    # all eight revisions

Arguments: a size (b0 or b4, default b4); `all` (revisions 1 to 8 instead of 4); `quick`. The original is trained for 50 epochs,
as the revisions are, and for 300. The page says of each pair whether the difference could be chance, and how far the seeds lie
apart.

Sources: as configs/kvasir_effisegnet.py. The AI_Projects repository found that the same code gave clearly different results, and
published one run of each row. Measured on real data: not yet.
"""

from configs import kvasir_effisegnet
from configs._arguments import parse
from configs.kvasir_effisegnet import REVISIONS

KEYS = ("train.augment", "loss.terms", "eval.threshold")  # what a revision changes, beside its 50 epochs
PUBLISHED = (
    ("EffiSegNet-B4, paper", (("Dice", 0.9483), ("IoU", 0.9056), ("recall", 0.9429))),
    ("EffiSegNet-B4, repeated by AI_Projects", (("Dice", 0.9310), ("IoU", 0.8803), ("recall", 0.9363))),
    ("rev1", (("Dice", 0.9406), ("IoU", 0.8913), ("recall", 0.9259))),
    ("rev2", (("Dice", 0.9363), ("IoU", 0.8860), ("recall", 0.9295))),
    ("rev3", (("Dice", 0.9386), ("IoU", 0.8904), ("recall", 0.9389))),
    ("rev4", (("Dice", 0.9421), ("IoU", 0.8944), ("recall", 0.9385))),
    ("rev5", (("Dice", 0.9370), ("IoU", 0.8879), ("recall", 0.9378))),
    ("rev6", (("Dice", 0.9304), ("IoU", 0.8790), ("recall", 0.9295))),
    ("rev7", (("Dice", 0.9347), ("IoU", 0.8824), ("recall", 0.9528))),
    ("rev8", (("Dice", 0.9315), ("IoU", 0.8772), ("recall", 0.9501))),
)


def variants(words: tuple[str, ...], revisions: tuple[str, ...], *, phantom: bool) -> tuple:
    """The keys in which the revisions' configs differ from the original's."""
    found = []
    for revision in revisions:
        c = kvasir_effisegnet.get_config(",".join((*words, revision)))
        small = dict(c.embedded) if phantom else {}
        value = lambda key, c=c, small=small: small.get(key, c[key.split(".")[0]][key.split(".")[1]])
        found.append((revision, tuple((key, value(key)) for key in KEYS)))
    return tuple(found)


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=("b0", "b4"), flags=("all", "quick"))
    words = (*([chosen.size] if chosen.size else []), *(["quick"] if "quick" in chosen.flags else []))
    revisions = tuple(REVISIONS) if "all" in chosen.flags else ("rev4",)
    c = kvasir_effisegnet.get_config(",".join(words))
    c.variant, c.train.epochs = arguments, 50
    c.compare.seeds, c.compare.published = (42, 43, 44, 45, 46), PUBLISHED
    c.compare.vary = (
        ("original", ()),
        ("original, 300 epochs", (("train.epochs", 300),)),
        *variants(words, revisions, phantom=False),
    )
    small = (("original", ()), *variants(words, revisions, phantom=True))
    c.embedded += (("compare.vary", small), ("compare.seeds", (42, 43) if "quick" in chosen.flags else (42, 43, 44)))
    return c
