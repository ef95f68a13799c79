"""The first network of the cascade, which finds the region of the tumour: whole brains at 64^3 with three coordinate channels.

    python -m jaxseg.main --config=configs/brats_roi.py                                             # the phantom, 2 CPU cores
    python -m jaxseg.main --config=configs/brats_roi.py:roi_mobileunetr3d_tiny --config.data.root=/data/BraTS2021_Training_Data

Arguments, comma-separated: a network (roi_unet3d_small, roi_mobileunetr3d_tiny, or any that takes 7 channels), `augment` (the
source's --use_mri_augmentation; the coordinate channels keep their values), `quick`.

Beside the usual files the run folder holds config.json and metrics.csv (seed, best_epoch, best_val_dice, test_wt_dice,
weight_path) as the source writes them. Then: configs/brats_cascade.py with --config.infer.roi=<this run's folder>.

Source: jwon112/3d-segmentation, train_roi.py: 40 epochs, batch 4, Adam 1e-3, plateau (0.5, patience 2), 0.3 cross-entropy +
0.7 squared Dice of two classes. Published: nothing. Measured on real data: not yet measured.
"""

from configs._arguments import network_and_flags
from configs._base import base
from configs._brats import AUGMENT, published_recipe

PHANTOM = (
    ("data.phantom", "default"),
    ("data.size", (32, 32, 32)),
    ("data.fractions", (0.7, 0.1, 0.2)),
    ("optim.name", "adamw"),
    ("optim.lr", 2e-3),
    ("schedule.name", "cosine"),
    ("schedule.options", {}),
    ("train.epochs", 60),
    ("train.log_every", 20),
    ("train.augment", (("mirror", 0.5, {}), *AUGMENT[1:])),
)
QUICK = (("data.phantom", "quick"), ("train.epochs", 2), ("train.batch_size", 2), ("data.fractions", (0.5, 0.25, 0.25)))


def get_config(arguments: str = ""):
    named, flags = network_and_flags(arguments, "augment", "quick")
    c = base()
    c.variant = arguments
    published_recipe(c, two=False)
    c.model.name = named or ("roi_unet3d_test" if "quick" in flags else "roi_unet3d_small")
    c.model.softmax = True
    c.data.whole, c.data.fit, c.data.coordinates, c.data.size = True, "stretch", True, (64, 64, 64)
    c.data.positions, c.infer.overlap, c.infer.blend = (
        "uniform",
        0.25,
        "gaussian",
    )  # the defaults: whole volumes take none of them
    c.loss.terms = (("brats3d_squared", 1.0),)
    c.schedule.options = {"factor": 0.5, "patience": 2}
    c.train.augment = AUGMENT if "augment" in flags else ()
    c.train.batch_size, c.train.epochs, c.train.bn_warmup = 4, 40, 0
    c.embedded = PHANTOM + (QUICK if "quick" in flags else ())
    return c
