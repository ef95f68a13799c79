"""nnU-Net's training: its default trainer and predictor around its plain U-Net, on patches of volumes.

    python -m jaxseg.main --config=configs/nnunet.py                            # the BraTS phantom, 2 CPU cores
    jaxseg plan folder --config.data.root=Dataset001_Mine --output=plan.py      # your data: spacing, patch and network ...
    jaxseg train plan.py                                                        # ... for this training
    jaxseg train nnunet --config.data.root=Dataset001_Mine                      # without a plan: patches of 128^3 at 1 mm

Argument: `quick`. A plan derives from this file and replaces what the data decide; so does what `jaxseg import nnunet` brings
beside its plans, with which an imported model goes on:

    jaxseg import nnunet MODEL_FOLDER --output=runs/theirs  # a trained nnU-Net, as run folders
    jaxseg predict runs/theirs/fold_0 --input=imagesTs --output=predictions
    jaxseg train runs/theirs/fold_0 --config.model.init=runs/theirs/fold_0 \\
        --config.data.root=Dataset002_Mine --config.train.epochs=50 --workdir=runs/mine  # goes on with one on data of one's own

Source: MIC-DKFZ/nnUNet, nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py: SGD 1e-2 with Nesterov momentum 0.99, poly 0.9, 1000
epochs of 250 batches of 2, Dice and cross-entropy with deep supervision, a third of the patches on foreground. Differs in that
an epoch is one patch of every volume; where slices are thick, `_brats.in_plane` is nnU-Net's augmentation (plans use it, imported
models do not). Published: no figure for these data. Measured on real data: not yet.
"""

from ml_collections import config_dict

from configs._arguments import parse
from configs._base import base
from configs._brats import ALL, NNUNET_AUGMENT, PHANTOM, QUICK, deep_supervision
from jaxseg.planning.topology import output_weights

STAGES = {"widths": (12, 24, 48, 96), "strides": (1, 2, 2, 2), "kernels": (3, 3, 3, 3)}  # of a network for the phantom
FULL, *COARSER = output_weights(3)  # of its outputs
EMBEDDED = (
    ("data.dataset", "brats"),
    ("data.modalities", ALL),
    ("data.channels", 4),
    ("data.split", "patient"),
    ("model.name", "nnunet_plain"),
    ("model.options", STAGES),
    ("loss.terms", (("nnunet", FULL),)),
    ("loss.aux_weights", tuple(COARSER)),
    ("infer.mirror", ()),
    ("train.bn_warmup", 0),
)


def get_config(arguments: str = ""):
    quick = "quick" in parse(arguments, flags=("quick",)).flags
    c = base()
    c.variant, c.data.dataset, c.data.rank, c.data.window, c.data.split = arguments, "auto", 3, (), "auto"
    c.data.channels = config_dict.placeholder(int)
    c.data.intensity, c.data.filter, c.data.nonzero, c.data.orientation = "zscore", "nnunet", True, "file"
    c.data.axes, c.data.spacing, c.data.size = (2, 1, 0), (1.0, 1.0, 1.0), (128, 128, 128)
    c.data.fit, c.model.name = "patches", "nnunet_plain"
    trainer(c)
    deep_supervision(c)
    c.train.best = "val_dice"
    c.embedded = PHANTOM + (QUICK[3] if quick else ()) + EMBEDDED
    return c


def trainer(c) -> None:
    """Set nnU-Net's default training and prediction in a config of volumes; its deep supervision is `_brats.deep_supervision`."""
    c.data.per_volume, c.data.foreground, c.data.positions = 1, 1 / 3, "uniform"
    c.loss.terms, c.train.augment = (("nnunet", 1.0),), NNUNET_AUGMENT
    c.optim.name, c.optim.lr, c.optim.options = "sgd", 1e-2, {"momentum": 0.99, "nesterov": True}
    c.optim.weight_decay, c.optim.clip_norm = 3e-5, 12.0
    c.schedule.name, c.schedule.options = "poly", {"power": 0.9}
    c.train.batch_size, c.train.epochs, c.train.bn_warmup = 2, 1000, 0
    c.infer.overlap, c.infer.blend, c.infer.positions, c.infer.mirror = 0.5, "gaussian_nnunet", "nnunet", (0, 1, 2)
