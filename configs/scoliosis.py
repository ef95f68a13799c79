"""Spines in X-ray images: every row of the project's table (SegFormer B0 to B5, SegNeXt T to L, in the project's variants).

    python -m jaxseg.main --config=configs/scoliosis.py:segnext_l --config.data.root=/data/AIS.v1i.yolov8   # Roboflow export
    python -m jaxseg.main --config=configs/scoliosis.py:quick                                               # seconds

Arguments: segformer_b0 ... segformer_b5, segnext_t (default), segnext_s, segnext_b, segnext_l; `quick`.

Recipe: 640 x 640 grey, Adam 1e-4 with a plateau schedule, Dice loss, the export's own split, no augmentation. Batch sizes
are those of two GPUs, in sum. Without data.root the small generated set of the reader stands in (its figures say nothing).

Source: drawcodeboy/scoliosis_seg-task. Published (test, threshold 0.5):
                 B0     B1     B2     B3     B4     B5     T      S      B      L
    IoU        .8782  .8916  .8960  .9072  .9087  .9078  .8679  .8710  .8830  .9005
    Dice       .9346  .9422  .9447  .9509  .9517  .9512  .9288  .9306  .9374  .9472
    precision  .9360  .9413  .9406  .9486  .9516  .9495  .9229  .9285  .9364  .9460
    recall     .9357  .9453  .9509  .9552  .9538  .9548  .9372  .9351  .9404  .9505
    loss      .067758 .059165 .056033 .049237 .048405 .048933 .071246 .069426 .062625 .052768
Measured: not yet (the data are not public under a fixed address).
"""

from configs._arguments import parse
from configs._base import base

BATCH = {
    "segformer_b0": 16,
    "segformer_b1": 16,
    "segformer_b2": 16,
    "segformer_b3": 8,
    "segformer_b4": 8,
    "segformer_b5": 4,
    "segnext_t": 16,
    "segnext_s": 16,
    "segnext_b": 16,
    "segnext_l": 8,
}
_PHANTOM = (
    ("data.phantom", "default"),
    ("data.size", (96, 96)),
    ("optim.lr", 1e-3),
    ("schedule.name", "cosine"),
    ("schedule.options", {}),
    ("train.batch_size", 4),
    ("train.epochs", 20),
    ("train.best", "val_dice"),
)
_QUICK = (("data.phantom", "quick"), ("data.size", (64, 64)), ("train.epochs", 2), ("train.log_every", 2))


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=tuple(BATCH), flags=("quick",))
    c = base()
    c.variant = arguments
    name = chosen.size or "segnext_t"
    c.model.name = f"{name.partition('_')[0]}_test_ich" if "quick" in chosen.flags else f"{name}_ich"
    c.data.dataset, c.data.split, c.data.window, c.data.size = "scoliosis", "fixed", (), (640, 640)
    c.train.batch_size = BATCH[name]
    c.schedule.name, c.schedule.options = "plateau", {"factor": 0.5, "patience": 5, "min_lr": 1e-7}
    c.embedded = _PHANTOM + (_QUICK if "quick" in chosen.flags else ())
    return c
