"""The lung project's stages, and the recipe for the phantom."""

from typing import NamedTuple

CROSS, OVERLAP = ("cross_entropy", 1.0), (("dice", 0.01), ("boundary", 0.99))
EQUALIZE = (("equalize", 0.5, {}),)
ALBUMENTATIONS = (
    ("rotate", 0.5, {"degrees": (-10.0, 10.0)}),
    ("scale", 0.5, {"factor": (0.9, 1.1)}),
    ("brightness", 0.5, {"factor": (0.8, 1.2)}),
    ("contrast", 0.5, {"factor": (0.8, 1.2)}),
)


class Stage(NamedTuple):
    """A run of the project: the stage it starts from, epochs, transforms, loss, the weight of the auxiliary cross-entropy,
    and how often each picture is drawn per epoch."""

    after: str
    epochs: int
    augment: tuple = ()
    terms: tuple = (CROSS,)
    auxiliary: float = 0.4
    copies: int = 1


STAGES = {
    "cutmix": Stage("", 30, (("cutmix", 1.0, {}),)),
    "mirror": Stage("", 50, (("hflip", 0.25, {"swap": ((1, 2),)}),), copies=2),
    "histogram": Stage("", 50, EQUALIZE, copies=2),
    "albumentations": Stage("", 30, ALBUMENTATIONS),
    "cutout": Stage("", 25, (("cutout", 1.0, {}),)),
    "hausdorff": Stage("cutmix", 10, terms=(CROSS, ("hausdorff", 1.0))),
    "distance": Stage("cutmix", 25, terms=(CROSS, ("hausdorff", 0.01))),
    "learnt": Stage("distance", 5, EQUALIZE, (CROSS, ("boundary", 0.01)), copies=2),
    "weighted": Stage("cutmix", 10, EQUALIZE, OVERLAP, copies=2),
    "final": Stage("learnt", 50, EQUALIZE, OVERLAP, 0.3, copies=2),
}
PHANTOM = (
    ("data.phantom", "default"),
    ("data.size", (97, 97)),
    ("optim.name", "adamw"),
    ("optim.options", {}),
    ("optim.lr", 1e-3),
    ("optim.groups", ()),
    ("optim.accumulate", 1),
    ("train.batch_size", 4),
    ("train.epochs", 20),
    ("train.eval_every", 2),
    ("model.init", ""),
)
QUICK = (("data.phantom", "quick"), ("data.size", (65, 65)), ("train.epochs", 2), ("train.eval_every", 1), ("train.log_every", 2))
