"""Brain tumours in slices of four MRI sequences: every row of the BraTS 2-D project's table (`ROWS` in configs/_brats2d.py).

    python -m jaxseg.main --config=configs/brats2d.py                                       # the phantom, 2 CPU cores
    python -m jaxseg.main --config=configs/brats2d.py:unet3p,ell02 --config.data.root=/data/brats_arrays   # six .npy files
    python -m jaxseg.main --config=configs/brats2d.py:attention_unet2d,slices --config.data.root=/data/BraTS2017
    python -m jaxseg.main --config=configs/brats2d.py:edges,3channel && python -m jaxseg.main --config=configs/brats2d.py:painted
    python -m jaxseg.main --config=configs/brats2d.py:autoencoder && python -m jaxseg.main --config=configs/brats2d.py:autoencoded
    python -m jaxseg.main --config=configs/brats2d.py:attention_unet2d,wcce --mode=search

Arguments: a network of NETWORKS (unet2d); a loss (bce_dice; ell02 and ell07: alpha BCE + (1 - alpha) Dice; cce; wcce; softdice);
`adagrad`; `dropout` (0.2); `dilation3` (U-Net 3+); a fifth channel (`kmeans`, `edge`, `autoencoded`); `3channel` (no T1: the
project does not say which one went); `painted` (3 channels with predicted edges drawn on them, started from the edges' weights:
"U-net twice"); `cropped` (192 x 192, the project's box is not public); `blur` (sigma 1); `slices` (cut from BraTS volumes: more
than 500 pixels of a class, 2/5 of them, split by patient); stage one: `edges`, `autoencoder` (without bridge); `quick`.
Stage two reads runs/brats2d-<arguments of stage one>; another folder: --config.data.extra_run.

Source: Masterjun12/brain_tumor_segmentation (Keras). Adam or Adagrad at 1e-3 with Keras' constants, batch 32, 100 epochs (it
took 16 or 32 and 50 to 100 and does not say where), last weights. Published, 1302 BraTS-2017 slices, means over 4 classes with
background: recall .9143, F1 .9200 for unet2d; .9281, .9297 for unet3p,ell02; all in ROWS. Measured on real data: not yet.
On the phantom (it says nothing about patients): pooled foreground Dice 0.531 (2026-11-21, first command, 83 s on one core).
"""

from configs._arguments import one_of, parse
from configs._base import base
from configs._brats2d import CHANNELS, LOSSES, NETWORKS, PHANTOM, QUICK, STAGES, small
from jaxseg.types import ConfigError


def get_config(arguments: str = ""):
    flags = ("adagrad", "dropout", "dilation3", "3channel", "cropped", "blur", "slices", "quick")
    chosen = parse(arguments, sizes=NETWORKS, flags=(*LOSSES, *CHANNELS, *STAGES, *flags))
    stage, channel = one_of(chosen.flags, STAGES), one_of(chosen.flags, CHANNELS)
    quick, slices = "quick" in chosen.flags, "slices" in chosen.flags
    c = base()
    c.variant = arguments
    default = "unet3p" if "dilation3" in chosen.flags else "unet2d_nobridge" if stage == "autoencoder" else "unet2d"
    c.model.name = chosen.size or default
    if "dilation3" in chosen.flags and not c.model.name.startswith("unet3p"):
        raise ConfigError(f"dilation3 is an option of U-Net 3+, not of {c.model.name}; unet2d_dilated has dilations of its own")
    given = {"dropout": ("dropout", 0.2), "dilation3": ("dilation", 3)}
    c.model.options = dict(given[flag] for flag in given if flag in chosen.flags)

    c.data.dataset, c.data.split = ("brats", "patient") if slices else ("brats_arrays", "fixed")
    c.data.fractions = (0.6, 0.2, 0.2)
    if slices:
        c.data.min_area, c.data.sample, c.data.sample_seed = 500, 0.4, 42
    c.data.intensity, c.data.window, c.data.size = "brain", (), (240, 240)
    three = channel == "painted" or "3channel" in chosen.flags
    c.data.modalities = ("t1ce", "t2", "flair") if three else ("t1", "t1ce", "t2", "flair")
    c.data.channels = len(c.data.modalities) + (channel not in (None, "painted"))
    if channel:
        extra, source = CHANNELS[channel]
        c.data.extra = (extra,)
        c.data.extra_run = source and "-".join(["runs/brats2d", *source.split(","), *["slices"] * slices, *["quick"] * quick])
    c.model.init = c.data.extra_run if channel == "painted" else ""
    c.data.target = STAGES[stage] if stage else "labels"
    c.data.blur = 1.0 if "blur" in chosen.flags else 0.0
    if "cropped" in chosen.flags:
        c.data.crop = c.data.size = (192, 192)

    c.loss.terms, c.loss.options = LOSSES[one_of(chosen.flags, LOSSES) or "bce_dice"]
    if stage == "autoencoder":
        c.loss.terms, c.loss.options = (("squared_error", 1.0),), {}
    c.optim.name, c.optim.lr = ("adagrad" if "adagrad" in chosen.flags else "adam"), 1e-3
    c.optim.options = {"eps": 1e-7, "initial": 0.1} if c.optim.name == "adagrad" else {"eps": 1e-7}
    c.train.epochs, c.train.batch_size, c.train.best = 100, 32, "last"
    c.eval.tables = ("classes",)

    name, options = small(c.model.name, quick)
    kept = {} if quick else c.model.options.to_dict()
    c.embedded = PHANTOM + (("model.name", name), ("model.options", options | kept)) + (QUICK if quick else ())
    if "cropped" in chosen.flags:
        c.embedded += (("data.crop", (32, 32)), ("data.size", (32, 32)))
    return c
