"""Shared by the experiments on BraTS volumes: the source's recipe, its transforms, nnU-Net's, and the recipe for the phantom."""

from jaxseg.planning.topology import output_weights

ALL, TWO = ("t1", "t1ce", "t2", "flair"), ("t1ce", "flair")
# Axes of a volume: d runs from the patient's right to the left, h from front to back, w from feet to head.
# The source's --use_mri_augmentation: flip along its second axis, one scale and shift for all channels, gamma, noise.
AUGMENT = (
    ("vflip", 0.5, {}),
    ("intensity", 0.5, {"scale": 0.1, "shift": 0.05}),
    ("gamma_signed", 0.3, {"gamma": (0.7, 1.3)}),
    ("noise", 0.3, {"sigma": 0.03}),
)
NNUNET_AUGMENT = (
    ("rotate", 0.2, {"degrees": (-30.0, 30.0)}),
    ("scale", 0.2, {"factor": (0.7, 1.4)}),
    ("noise", 0.1, {"sigma": (0.0, 0.1)}),
    ("blur", 0.2, {"sigma": (0.5, 1.0), "per_channel": 0.5}),
    ("brightness", 0.15, {"factor": (0.75, 1.25)}),
    ("contrast", 0.15, {"factor": (0.75, 1.25), "preserve_range": True}),
    ("lowres", 0.25, {"factor": (0.5, 1.0), "per_channel": 0.5}),
    ("gamma", 0.1, {"gamma": (0.7, 1.5), "invert": True, "keep_statistics": True}),
    ("gamma", 0.3, {"gamma": (0.7, 1.5), "keep_statistics": True}),
    ("mirror", 0.5, {}),
)
IN_PLANE = {"rotate": ("d",), "scale": ("h", "w"), "lowres": ("h", "w")}  # nnU-Net's "dummy 2D", of volumes with thick slices
# On the phantom: a small network, small patches, a learning rate that falls to zero.
PHANTOM = (
    ("data.phantom", "default"),
    ("data.size", (48, 48, 48)),
    ("data.per_volume", 6),
    ("data.foreground", 0.5),
    ("data.fractions", (0.7, 0.1, 0.2)),
    ("model.name", "unet3d_xs"),
    ("optim.name", "adamw"),
    ("optim.options", {}),
    ("optim.lr", 2e-3),
    ("optim.weight_decay", 0.01),
    ("optim.clip_norm", 1.0),
    ("schedule.name", "cosine"),
    ("schedule.options", {}),
    ("schedule.warmup", 10),
    ("train.batch_size", 2),
    ("train.epochs", 10),
    ("train.best", "val_dice"),
    ("train.bn_warmup", 0),
    ("train.log_every", 10),
    ("infer.overlap", 0.25),
    ("infer.blend", "gaussian"),
)
QUICK = {
    3: (
        ("data.phantom", "quick"),
        ("data.size", (32, 32, 32)),
        ("data.per_volume", 2),
        ("model.name", "unet3d_test"),
        ("train.epochs", 2),
        ("train.log_every", 2),
        ("schedule.warmup", 2),
        ("train.bn_warmup", 1),
        ("data.fractions", (0.5, 0.25, 0.25)),
    ),
    2: (
        ("data.phantom", "quick"),
        ("data.size", (48, 48)),
        ("model.name", "segnext_test"),
        ("train.batch_size", 8),
        ("train.epochs", 2),
        ("train.log_every", 4),
        ("schedule.warmup", 2),
        ("data.fractions", (0.5, 0.25, 0.25)),
    ),
}


def published_recipe(c, *, two: bool) -> None:
    """The source's recipe: 128^3 patches with random centres, moved inside; Adam 1e-3, plateau schedule, BatchNorm warm-up."""
    c.data.dataset, c.data.rank, c.data.intensity, c.data.window = "brats", 3, "brain", ()
    c.data.modalities = TWO if two else ALL
    c.data.channels = len(c.data.modalities)
    c.data.fit, c.data.size, c.data.per_volume, c.data.foreground = "patches", (128, 128, 128), 16, 1 / 3
    c.data.positions, c.data.fractions = "centre_clipped", (0.8, 0.1, 0.1)
    c.optim.lr = 1e-3
    c.schedule.name, c.schedule.options = "plateau", {"factor": 0.5, "patience": 3}
    c.train.batch_size, c.train.epochs, c.train.best, c.train.bn_warmup = 1, 10, "val_dice", 20
    c.infer.overlap, c.infer.blend = 0.10, "cosine"


def on_slices(c) -> None:
    """The source's --dim 2d: a 2-D network on all axial slices, resized from 240 to 256."""
    c.data.rank, c.data.fit, c.data.size = 2, "stretch", (256, 256)
    c.data.per_volume, c.data.foreground, c.data.positions = 16, 1 / 3, "uniform"  # the defaults: slices take none of them
    c.infer.overlap, c.infer.blend, c.infer.positions, c.infer.mirror = 0.25, "gaussian", "monai", ()
    c.train.batch_size, c.train.bn_warmup = 16, 0
    c.embedded = (
        ("data.phantom", "default"),
        ("data.size", (64, 64)),
        ("data.fractions", (0.7, 0.1, 0.2)),
        ("optim.name", "adamw"),
        ("optim.lr", 1e-3),
        ("optim.weight_decay", 0.01),
        ("optim.clip_norm", 1.0),
        ("schedule.name", "cosine"),
        ("schedule.options", {}),
        ("schedule.warmup", 20),
        ("train.batch_size", 16),
        ("train.epochs", 10),
        ("train.best", "val_dice"),
    )


def deep_supervision(c, levels: int = 5) -> None:
    """nnU-Net's weights over its plain network's outputs: of five levels 8/15 for the full one, then 4/15, 2/15, 1/15, 0."""
    full, *others = output_weights(levels)
    c.loss.aux_terms = c.loss.terms if others else ()
    c.loss.terms = tuple((name, weight * full) for name, weight in c.loss.terms)
    c.loss.aux_weights = tuple(others)


def in_plane(c, degrees: tuple[float, float]) -> None:
    """Rotate, scale and coarsen volumes in the plane of their slices alone: nnU-Net's augmentation where slices are thick."""
    changed = lambda name, options: options | ({"axes": IN_PLANE[name]} if name in IN_PLANE else {})
    c.train.augment = tuple(
        (name, p, changed(name, dict(options)) | ({"degrees": degrees} if name == "rotate" else {}))
        for name, p, options in c.train.augment
    )
