"""What a model imported from nnU-Net brings beside its plans: the training of nnU-Net's default trainer, with which it goes on.

    jaxseg import nnunet MODEL_FOLDER --output=runs/theirs  # a trained nnU-Net, as run folders
    jaxseg predict runs/theirs/fold_0 --input=imagesTs --output=predictions
    jaxseg train runs/theirs/fold_0 --config.model.init=runs/theirs/fold_0 \\
        --config.data.root=Dataset002_Mine --config.train.epochs=50 --workdir=runs/mine  # goes on with one on data of one's own

`jaxseg import` replaces preparation, network, deep supervision and window settings by those of the model's plans; the rest
is that of this file, and is what a fine-tuning begins with.

Source: MIC-DKFZ/nnUNet, nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py: SGD 1e-2 with Nesterov momentum 0.99, poly 0.9, 1000
epochs of 250 batches of 2, Dice and cross-entropy with deep supervision, a third of the patches on foreground. Differs in that
an epoch is one patch of every volume; where slices are thick, `_brats.in_plane` is nnU-Net's augmentation (plans use it, imported
models do not).
"""

from configs._base import base
from configs._brats import NNUNET_AUGMENT, deep_supervision


def get_config():
    c = base()
    c.data.dataset, c.data.rank, c.data.window, c.data.split = "nnunet_raw", 3, (), "fold"
    c.data.intensity, c.data.filter, c.data.nonzero, c.data.orientation = "zscore", "nnunet", True, "file"
    c.data.axes, c.data.spacing, c.data.size, c.data.channels = (2, 1, 0), (1.0, 1.0, 1.0), (128, 128, 128), 1
    c.data.fit, c.data.per_volume, c.data.foreground, c.data.positions = "patches", 1, 1 / 3, "uniform"
    c.model.name = "nnunet_plain"
    c.loss.terms, c.train.augment = (("nnunet", 1.0),), NNUNET_AUGMENT
    deep_supervision(c)
    c.optim.name, c.optim.lr, c.optim.options = "sgd", 1e-2, {"momentum": 0.99, "nesterov": True}
    c.optim.weight_decay, c.optim.clip_norm = 3e-5, 12.0
    c.schedule.name, c.schedule.options = "poly", {"power": 0.9}
    c.train.batch_size, c.train.epochs, c.train.best = 2, 1000, "val_dice"
    c.infer.overlap, c.infer.blend, c.infer.positions, c.infer.mirror = 0.5, "gaussian_nnunet", "nnunet", (0, 1, 2)
    return c
