"""Your own pictures or volumes, in one of the layouts below; the layout under data.root is detected.

    python -m jaxseg.main --config=configs/folder.py --config.data.root=/data/mine --mode=check   # what is there and wrong
    python -m jaxseg.main --config=configs/folder.py --config.data.root=/data/mine                # pictures, slices
    python -m jaxseg.main --config=configs/folder.py:patches --config.data.root=/data/mine        # large pictures
    python -m jaxseg.main --config=configs/folder.py:volumes --config.data.root=/data/Dataset001     # 3-D network
    python -m jaxseg.main --config=configs/folder.py:unet_base --config.data.root=/data/mine --config.data.structures=a,b
    python -m jaxseg.main --config=configs/folder.py:quick                                            # seconds

    /data/Dataset001_Mine/    dataset.json, imagesTr, labelsTr, imagesTs: nnU-Net's raw data
    /data/Task09_Spleen/      dataset.json with a list of cases: the Medical Segmentation Decathlon
    /data/mine/images, masks  pictures or volumes, paired by name; masks of one class 0/1 or 0/255, of several 0, 1, 2, ...; or a
                              mask for each structure: masks/liver/anna.png, masks/anna_liver.png

Masks of other values, of colours, or with pixels to ignore need a table, value or palette index or '#rrggbb' -> class, such as
    --config.data.mask_values="((0, 0), (128, 1), (255, 2))"
    --config.data.mask_values="(('#000000', 0), ('#ff0000', 1), ('#808080', 0))"

Arguments: a network (any registry name; `segformer_b0`, of volumes `unet3d_xs`, when none is named); `patches` (pictures of any
sizes at their own resolution: patches of data.size train, windows of it predict); `volumes`; `quick` (a small network, two
epochs). dataset.json names channels and classes; elsewhere data.structures names the classes 1, 2, ... CT goes through a window
of soft tissue (data.window), 8 bits stay, all else becomes z-scores; data.intensity says otherwise. Structures that overlap are
learnt with --config.data.regions=dataset. data.patient='^([^_]+)_' keeps the files of one person together.

Split 70/10/20 by patient, or the data's own. A recipe to start from, of no publication: AdamW 5e-4, cosine, 100 epochs, flips,
light turns and brightness. Without data.root bright discs in uneven light stand in; on those, 12 held out, pooled Dice 0.956,
best intensity threshold on these very pictures 0.530 (2026-11-27, `jaxseg train folder`).
"""

from ml_collections import config_dict

from configs import _imagenet
from configs._arguments import network_and_flags, one_of
from configs._base import base

GEOMETRY = (("rotate", 0.5, {"degrees": (-15.0, 15.0)}), ("scale", 0.5, {"factor": (0.85, 1.2)}))
PICTURES = (("hflip", 0.5, {}), *GEOMETRY, ("brightness", 0.5, {"factor": (0.8, 1.2)}), ("contrast", 0.5, {"factor": (0.8, 1.2)}))
PHANTOM = (("data.size", (96, 96)), ("train.epochs", 20), ("train.log_every", 2))


def get_config(arguments: str = ""):
    named, flags = network_and_flags(arguments, "patches", "volumes", "quick")
    quick, kind = "quick" in flags, one_of(flags, ("patches", "volumes"))
    c = base()
    c.variant, c.data.dataset = arguments, "auto"
    c.data.channels, c.data.intensity, c.data.window, c.data.split = config_dict.placeholder(int), "auto", (), "auto"
    c.loss.terms = (("dice", 1.0), ("focal", 1.0))
    c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.clip_norm = "adamw", 5e-4, 0.01, 1.0
    c.schedule.name = "cosine"
    c.train.best = "val_dice"
    if kind == "volumes":
        c.model.name = named or ("unet3d_test" if quick else "unet3d_xs")
        c.data.rank, c.data.fit, c.data.size = 3, "patches", (32,) * 3 if quick else (64,) * 3
        c.train.augment, c.train.batch_size, c.train.eval_every = GEOMETRY, 2, 5
    else:
        c.model.name = named or ("unet_test" if quick else "segformer_b0")
        c.data.size = (64, 64) if quick else (256, 256)
        c.data.mean, c.data.std = _imagenet.MEAN, _imagenet.STD
        c.train.augment, c.train.batch_size = PICTURES, 4 if quick else 8
        c.embedded = (("data.phantom", "quick"),) if quick else PHANTOM
        if kind == "patches":
            c.data.fit, c.data.per_volume, c.data.foreground, c.infer.windows = "patches", 8, 0.5, 8
            c.embedded += (("data.size", (64, 64)), ("data.per_volume", 4))
        else:
            c.eval.tables = ("classes",)
    if quick:
        c.train.epochs, c.train.eval_every, c.train.log_every = 2, 1, 2
    return c
