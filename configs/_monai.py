"""What a model imported from MONAI brings beside its bundle: a training with which it goes on.

    jaxseg import monai BUNDLE --output=runs/theirs  # a trained bundle, as a run folder
    jaxseg predict runs/theirs --input=imagesTs --output=predictions
    jaxseg train runs/theirs --config.model.init=runs/theirs \\
        --config.data.root=Task09_Spleen --config.train.epochs=50 --workdir=runs/mine  # goes on with it on data of one's own

`jaxseg import` replaces preparation, network and window settings by the bundle's; the rest is that of this file, and is what a
fine-tuning begins with. Bundles' own training settings are Python expressions, which are not read.

Source: MONAI's tutorials (3d_segmentation): AdamW 1e-4 with weight decay 1e-5, Dice and cross-entropy, patches a third of which
are on foreground, flips and shifts of intensity.
"""

from configs._base import base


def get_config():
    c = base()
    c.data.dataset, c.data.rank, c.data.window, c.data.split = "decathlon", 3, (), "fold"
    c.data.intensity, c.data.filter, c.data.orientation, c.data.spacing = "zscore", "monai", "ras", (1.0, 1.0, 1.0)
    c.data.size, c.data.channels = (96, 96, 96), 1
    c.data.fit, c.data.per_volume, c.data.foreground, c.data.positions = "patches", 4, 1 / 3, "uniform"
    c.model.name = "segresnet"
    c.loss.terms = (("dice", 1.0), ("cross_entropy", 1.0))
    c.train.augment = (("mirror", 1.0, {}), ("intensity", 0.5, {}))
    c.optim.name, c.optim.lr, c.optim.weight_decay = "adamw", 1e-4, 1e-5
    c.train.batch_size, c.train.epochs, c.train.best = 2, 500, "val_dice"
    c.infer.overlap, c.infer.blend, c.infer.positions = 0.25, "constant", "monai"
    return c
