"""Haemorrhage segmentation in head CT with SegNeXt-T (the project's variant).

    python -m jaxseg.main --config=configs/ich_segnext.py
    python -m jaxseg.main --config=configs/ich_segnext.py --config.data.root=/data/ct-ich    # PhysioNet CT-ICH 1.3.1
    python -m jaxseg.main --config=configs/ich_segnext.py:quick                              # seconds, for a first look

Arguments, comma-separated: a size (t, s, b, l), `official` (the official SegNeXt instead of the project's variant), `all`
(all slices instead of those with a bleed), `augment` (the project's transforms), `quick`.

With data.root the project's recipe runs: 640 x 640, batch 16, Adam 1e-4 with a plateau schedule, Dice loss. Without it
`embedded` replaces that by a recipe for the phantom on two CPU cores; keys given on the command line win over both.

Source: drawcodeboy/scoliosis_seg-task. Published (ICH_only, threshold 0.5, slice-level split, so patients are shared
between training and test): SegNeXt-T IoU 0.3833, Dice 0.4889, precision 0.6041, recall 0.4822, loss 0.519992.
Measured on the real set: not yet measured (the data need an agreement). On the embedded phantom: see README.
"""

from configs._arguments import parse
from configs._base import base
from configs._ich import published_recipe


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=("t", "s", "b", "l"), flags=("official", "all", "augment", "quick"))
    c = base()
    c.variant = arguments
    size = "test" if "quick" in chosen.flags else chosen.size or "t"
    c.model.name = f"segnext_{size}" if "official" in chosen.flags else f"segnext_{size}_ich"
    c.train.batch_size = 8 if chosen.size == "l" else 16
    published_recipe(c, chosen.flags)
    return c
