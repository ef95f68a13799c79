"""The second network of the cascade: 96^3 crops with absolute coordinates, evaluated by sliding window and by cascade.

    python -m jaxseg.main --config=configs/brats_roi.py
    python -m jaxseg.main --config=configs/brats_cascade.py --config.infer.roi=runs/brats_roi         # phantom, 2 CPU cores
    python -m jaxseg.main --config=configs/brats_cascade.py:unet3d_s --config.data.root=... --config.infer.roi=runs/brats_roi

Arguments, comma-separated: a network that takes 7 channels (`unet3d_s` when none is named), `augment`, `quick`. Without
config.infer.roi the run is trained and evaluated by sliding window alone; give it when evaluating to add cascade_dice,
cascade_wt, cascade_tc and cascade_et.

Crops are drawn as patches are: every third around a foreground voxel (the source: every crop around the centroid of the true
foreground). The source evaluates networks of 2 channels with 7-channel crops; here the network gets what it was trained with.

Source: jwon112/3d-segmentation, utils/cascade_utils.py. Published: nothing. Measured on real data: not yet measured.
"""

from configs._arguments import network_and_flags
from configs._base import base
from configs._brats import AUGMENT, PHANTOM, QUICK, published_recipe


def get_config(arguments: str = ""):
    named, flags = network_and_flags(arguments, "augment", "quick")
    c = base()
    c.variant = arguments
    published_recipe(c, two=False)
    c.model.name = named or "unet3d_s"
    c.data.coordinates, c.data.size = True, (96, 96, 96)
    c.loss.terms = (("brats3d_squared", 1.0),)
    c.train.augment = AUGMENT if "augment" in flags else ()
    c.embedded = PHANTOM + (QUICK[3] if "quick" in flags else ())
    if named:
        c.embedded = tuple((key, value) for key, value in c.embedded if key != "model.name")
    return c
