"""Brain tumours in four MRI sequences with the 3-D project's networks: trained on patches, evaluated by sliding window.

    python -m jaxseg.main --config=configs/brats_unet3d.py                                         # the phantom, 2 CPU cores
    python -m jaxseg.main --config=configs/brats_unet3d.py:unet3d_s --config.data.root=/data/BraTS2021_Training_Data
    python -m jaxseg.main --config=configs/brats_unet3d.py:dualbranch_04_unet_s,two --config.data.root=/data/BRATS2018
    python -m jaxseg.main --config=configs/brats_unet3d.py:segnext_t,slices --config.data.root=...  # --dim 2d of the source

Arguments, comma-separated: a network (any registry name; `unet3d_s` when none is named), `two` ([t1ce, flair], the source's
2-modality set, instead of all four), `standard` (0.5 cross-entropy + 0.5 Dice instead of 0.3 + 0.7 squared Dice), `nnunet`
(nnU-Net's training: configs/nnunet.py), `augment` (the source's --use_mri_augmentation), `regions` (WT, TC,
ET as sigmoids), `five` (5-fold: set config.data.fold), `slices` (2-D networks on axial slices), `quick`.

With data.root the source's recipe runs: patches of 128^3, 16 of each volume an epoch, every third centred on foreground (the
source takes 6 of 16), batch 1, Adam 1e-3 with a plateau, 10 epochs, 20 batches of BatchNorm warm-up, sliding window with
overlap 0.10 and cosine blending. Split 80/10/10 by patient (the source: per grade 70/15/15 for 2018, and training patches
from all patients, so its figures are no held-out figures). Without data.root `embedded` replaces that by a recipe for the
phantom on two CPU cores; keys given on the command line win over both.

Source: jwon112/3d-segmentation. Published: no result table exists. Measured on real data: not yet measured. On the embedded
phantom: see README.
"""

from configs import nnunet
from configs._arguments import network_and_flags
from configs._base import base
from configs._brats import AUGMENT, PHANTOM, QUICK, deep_supervision, on_slices, published_recipe

FLAGS = ("two", "standard", "nnunet", "augment", "regions", "five", "slices", "quick")


def get_config(arguments: str = ""):
    named, flags = network_and_flags(arguments, *FLAGS)
    c = base()
    c.variant = arguments
    published_recipe(c, two="two" in flags)
    c.model.name = named or ("segnext_t" if "slices" in flags else "unet3d_s")
    c.data.regions = ("dataset",) if "regions" in flags else ()
    c.data.split = "fold" if "five" in flags else "patient"
    c.loss.terms = (("brats3d_standard", 1.0),) if "standard" in flags else (("brats3d_squared", 1.0),)
    c.train.augment = AUGMENT if "augment" in flags else ()
    c.embedded = PHANTOM
    if "nnunet" in flags:
        nnunet.trainer(c)
    if "regions" in flags:
        c.loss.terms = (("dice", 1.0), ("bce", 1.0))
    if "slices" in flags:
        on_slices(c)
    if c.model.name.startswith("nnunet_plain"):
        deep_supervision(c)
    if "quick" in flags:
        c.embedded += QUICK[c.data.rank]
    if named:  # a network that was named stays, on the phantom too
        c.embedded = tuple((key, value) for key, value in c.embedded if key != "model.name")
    return c
