"""Shared by the experiments on haemorrhage CT: the recipe for the phantom, its quick form, the project's transforms."""

# On the phantom: small slices, few epochs, a higher learning rate that falls to zero.
PHANTOM = (
    ("data.phantom", "default"),
    ("data.size", (128, 128)),
    ("loss.terms", (("dice", 1.0), ("bce", 1.0))),
    ("optim.name", "adamw"),
    ("optim.lr", 1e-3),
    ("optim.weight_decay", 0.01),
    ("optim.clip_norm", 1.0),
    ("schedule.name", "cosine"),
    ("schedule.warmup", 20),
    ("schedule.options", {}),
    ("train.batch_size", 8),
    ("train.epochs", 20),
    ("train.best", "val_dice"),
)
QUICK = (
    ("data.phantom", "quick"),
    ("data.size", (48, 48)),
    ("train.batch_size", 4),
    ("train.epochs", 2),
    ("train.log_every", 2),
    ("schedule.warmup", 2),
)
# The transforms that the project declares for CT-ICH, each with probability 1/2.
AUGMENT = (
    ("hflip", 0.5, {}),
    ("vflip", 0.5, {}),
    ("rotate", 0.5, {"degrees": (-45.0, 45.0)}),
    ("scale", 0.5, {"factor": (0.8, 1.2)}),
    ("translate", 0.5, {"fraction": 0.2}),
    ("shear", 0.5, {"degrees": (-30.0, 30.0)}),
)


def published_recipe(c, flags: frozenset[str]) -> None:
    """The project's recipe for real data (640 x 640, Adam 1e-4, plateau schedule, Dice), and its replacement for the phantom."""
    c.data.protocol = "all" if "all" in flags else "only"
    c.data.size = (640, 640)
    c.schedule.name, c.schedule.options = "plateau", {"factor": 0.5, "patience": 5, "min_lr": 1e-7}
    c.train.augment = AUGMENT if "augment" in flags else ()
    c.embedded = PHANTOM + (QUICK if "quick" in flags else ())
