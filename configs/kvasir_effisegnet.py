"""Polyps in colonoscopy pictures with EffiSegNet, and the eight revisions of its recipe.

    python -m jaxseg.main --config=configs/kvasir_effisegnet.py:b4 --config.data.root=/data/Kvasir-SEG --config.model.init=b4.pth
    python -m jaxseg.main --config=configs/kvasir_effisegnet.py:b4,rev4 --config.data.root=/data/Kvasir-SEG
    python -m jaxseg.main --config=configs/kvasir_effisegnet.py:quick                                        # seconds

Arguments: a size (b0 to b7, default b4); rev1 ... rev8; `quick`. The root is EffiSegNet's layout with its own split; for
the original one add --config.data.split=patient. model.init takes ImageNet or EffiSegNet weights.

Sources: ivezakis/effisegnet (300 epochs, batch 8); WannaBeSuperteur/AI_Projects 2025_05_22_Improve_EffiSegNet (revisions,
50 epochs). Differs: Pillow's Lanczos (3 pixels a side, no aliases) instead of OpenCV's (4, of fixed width).
Published, Dice / IoU / recall: paper b4 .9483/.9056/.9429, b5 .9488/.9065; its repetition .9310/.8803/.9363; rev1
.9406/.8913/.9259; rev2 .9363/.8860/.9295; rev3 .9386/.8904/.9389; rev4 .9421/.8944/.9385; rev5 .9370/.8879/.9378; rev6
.9304/.8790/.9295; rev7 .9347/.8824/.9528; rev8 .9315/.8772/.9501. Measured: not yet.
"""

from configs import _imagenet
from configs._arguments import one_of, parse
from configs._base import base

SIDE = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
ORIGINAL = {"p": 0.5, "elastic": True, "jitter": ((0.6, 1.6), 0.2, 0.1), "rectangle": False, "near": False, "threshold": 0.5}
REVISIONS = {  # what each changes; p: of colour jitter and affine
    "rev1": {"p": 0.8, "elastic": False},
    "rev2": {"p": 0.8},
    "rev3": {"elastic": False},
    "rev4": {"p": 0.8, "elastic": False, "jitter": ((0.8, 1.4), 0.15, 0.075)},
    "rev5": {"rectangle": True},
    "rev6": {"threshold": 0.62246},  # sigmoid(0.5), for validation and test
    "rev7": {"near": True},
    "rev8": {"rectangle": True, "near": True},
}


def augment(rules: dict, pixels: float):
    """The transforms in the source's order; `pixels`: reach of the elastic transform's random affine."""
    brightness, contrast, saturation = rules["jitter"]
    jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": 0.01}
    affine = {"degrees": 90.0, "translate": 0.125, "scale": (0.5, 1.5), "per_axis": True}
    elastic = {"alpha": 1.0, "sigma": pixels, "alpha_affine": pixels}
    return (
        (("black_rectangle", 0.5, {"fraction": 0.3}),) * rules["rectangle"]
        + (("hflip", 0.5, {}), ("vflip", 0.5, {}), ("colour_jitter", rules["p"], jitter), ("affine", rules["p"], affine))
        + (("elastic", 0.5, elastic),) * rules["elastic"]
    )


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=tuple(SIDE), flags=(*REVISIONS, "quick"))
    revision, quick = one_of(chosen.flags, REVISIONS), "quick" in chosen.flags
    rules = ORIGINAL | (REVISIONS[revision] if revision else {})
    c = base()
    c.variant, c.seed = arguments, 42
    c.model.name = f"effisegnet_{'test' if quick else chosen.size or 'b4'}"
    c.data.dataset, c.data.split, c.data.window, c.data.channels = "kvasir", "fixed", (), 3
    c.data.size, c.data.filter = (SIDE[chosen.size or "b4"],) * 2, "lanczos"
    c.data.mean, c.data.std = _imagenet.MEAN, _imagenet.STD
    c.loss.terms = (("dice", 1.0), ("bce", 1.0)) + (("near_pixel", 0.01),) * rules["near"]
    c.optim.name, c.optim.lr, c.optim.weight_decay = "adamw", 1e-4, 0.01
    c.schedule.name, c.schedule.options = "cosine", {"final": 0.1, "per_epoch": True}
    c.train.epochs, c.train.batch_size, c.train.best = 50 if revision else 300, 8, "last"
    c.train.augment = augment(rules, 50.0)
    c.eval.threshold, c.eval.empty, c.eval.tables = rules["threshold"], "nan", ("effisegnet",)
    small = augment(rules, 50.0 * 64 / 380)
    c.embedded = (
        ("data.phantom", "quick" if quick else "default"),
        ("data.size", (64, 64)),
        ("train.augment", small),
        ("optim.lr", 1e-3),
        ("train.batch_size", 4),
        ("train.epochs", 2 if quick else 20),
        ("train.log_every", 2),
    )
    return c
