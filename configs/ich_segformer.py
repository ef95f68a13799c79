"""Haemorrhage segmentation in head CT with SegFormer (the project's variant).

    python -m jaxseg.main --config=configs/ich_segformer.py:b0,augment --config.data.root=/data/ct-ich   # PhysioNet CT-ICH 1.3.1
    python -m jaxseg.main --config=configs/ich_segformer.py:quick                                        # seconds

Arguments, comma-separated: a size (b0 to b5), `all` (all slices instead of those with a bleed), `augment` (the project's
transforms, each with probability 1/2), `quick`.

With data.root the project's recipe runs: 640 x 640, batch 16 (8 for b3 and b4, 4 for b5), Adam 1e-4 with a plateau schedule,
Dice loss. Without it `embedded` replaces that by a recipe for the phantom on two CPU cores.

Source: drawcodeboy/scoliosis_seg-task. Published (threshold 0.5; IoU, Dice, precision, recall, loss): b0 0.0848, 0.1427,
0.0977, 0.4498, 0.887513; b0,augment 0.0250, 0.0473, 0.0250, 0.9317, 0.957689; b0,all 0.3809, 0.3911, 0.4172, 0.9365, 0.951504
(an all-negative network scores IoU 0.888 there: 444 of its 500 test slices are empty); b1 to b5: none. Its split is by
slice (`--config.data.split=slice_level` repeats that); ours by patient. Measured: not yet (the data need an agreement).
"""

from configs._arguments import parse
from configs._base import base
from configs._ich import published_recipe

BATCH = {"b0": 16, "b1": 16, "b2": 16, "b3": 8, "b4": 8, "b5": 4}


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=tuple(BATCH), flags=("all", "augment", "quick"))
    c = base()
    c.variant = arguments
    size = chosen.size or "b0"
    c.model.name = "segformer_test_ich" if "quick" in chosen.flags else f"segformer_{size}_ich"
    c.train.batch_size = BATCH[size]
    published_recipe(c, chosen.flags)
    if "quick" in chosen.flags:
        c.embedded += (("data.size", (64, 64)),)  # SegFormer needs more than one key in its reduced map
    return c
