"""The BraTS 3-D project's integrated experiment: networks, seeds and folds of one recipe, side by side.

    python -m jaxseg.main --mode=compare --config=configs/brats_compare.py             # three small networks on the phantom
    python -m jaxseg.main --mode=compare --config=configs/brats_compare.py:quick       # two tiny ones
    python -m jaxseg.main --mode=compare --config=configs/brats_compare.py --config.data.root=/data/BraTS2021_Training_Data
    ... --config.compare.models=unet3d_s,dualbranch_01_unet_s --config.compare.seeds=24,42,123 --config.compare.folds=5

Arguments: those of configs/brats_unet3d.py but a network, which config.compare.models names. The same command started again goes
on where it was stopped; started on several machines that share a folder, each takes other runs. Tables (the project's
integrated_experiment_results.csv, model_comparison.csv, ...), tests and report.html lie in runs/brats_compare.

Source: jwon112/3d-segmentation. Published: no result table exists. Measured on real data: not yet.
"""

from configs import brats_unet3d
from configs._arguments import parse

MODELS = ("unet3d_s", "unet3d_stride_s", "dualbranch_01_unet_s", "dualbranch_04_unet_s", "dualbranch_13_unet_s")
SMALL = ("unet3d_xs", "unet3d_stride_xs", "dualbranch_01_unet_xs")
SHORT = (("data.size", (32, 32, 32)), ("data.per_volume", 4), ("train.epochs", 6), ("train.eval_every", 3))  # two minutes a run


def get_config(arguments: str = ""):
    quick = "quick" in parse(arguments, flags=brats_unet3d.FLAGS).flags
    c = brats_unet3d.get_config(arguments)
    c.compare.models, c.compare.seeds = MODELS, (24, 42, 123)
    models = ("unet3d_test", "dualbranch_03_unet_test") if quick else SMALL
    c.embedded += (("compare.models", models), ("compare.seeds", (24,) if quick else (24, 42)), *(() if quick else SHORT))
    return c
