"""Left and right lung in chest X-rays with PSPNet, in the stages of the source project.

    python -m jaxseg.main --config=configs/lungs_pspnet.py:cutmix --config.data.root=/data/shenzhen --config.model.init=pspnet.pth
    python -m jaxseg.main --config=configs/lungs_pspnet.py:final --config.data.root=/data/shenzhen --config.model.init=runs/cutmix
    python -m jaxseg.main --config=configs/lungs_pspnet.py:quick                                              # seconds

Arguments: r50 (what the notebooks train; default) or r101 (what the README says); a stage: `cutmix` (default), `mirror`,
`histogram`, `distance`, `final`; `seed_naming` (class 1 is the lung on the image's left; else the patient's left); `quick`.
Chain them by model.init: ADE20K weights -> cutmix -> distance -> final.

Source: superbunny38/Multi-Object-Semantic-Segmentation. Differs: pictures are fed as 0..1; a validation set apart from the
test set; mirroring swaps the two labels; copies are drawn with probability 1/2 instead of doubling the set; the weight of
the Hausdorff term is ours (the source's is not recoverable). Published, mean Dice (left, right of the image) on 169
Shenzhen pictures: mirror .9425 (.9538, .9312), cutmix .9501 (.9622, .9380), distance .9555 (.9645, .9464), boundary with
learnt weights and histogram .9612 (.9671, .9553), final .98 (.98141, .97686). Measured: not yet.
"""

from configs._arguments import parse
from configs._base import base

AUGMENT = {  # by stage
    "cutmix": (("cutmix", 1.0, {}),),
    "mirror": (("hflip", 0.5, {"swap": ((1, 2),)}),),
    "histogram": (("equalize", 0.5, {}),), "distance": (), "final": (("equalize", 0.5, {}),),
}
_PHANTOM = (
    ("data.phantom", "quick"), ("data.size", (97, 97)), ("optim.name", "adamw"), ("optim.options", {}), ("optim.lr", 1e-3),
    ("optim.groups", ()), ("optim.accumulate", 1), ("train.batch_size", 4), ("train.epochs", 20), ("train.eval_every", 2),
)
_QUICK = (("data.size", (65, 65)), ("train.epochs", 2), ("train.eval_every", 1), ("train.log_every", 2))


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=("r50", "r101"), flags=(*AUGMENT, "seed_naming", "quick"))
    stage = next((s for s in reversed(AUGMENT) if s in chosen.flags), "cutmix")
    c = base()
    c.variant, c.seed = arguments, 1234
    c.model.name = "pspnet_test" if "quick" in chosen.flags else f"pspnet_{chosen.size or 'r50'}"
    c.model.options = {"bins": (6, 3, 2, 1)}  # the notebooks' order
    c.data.dataset, c.data.window, c.data.channels, c.data.size = "lungs", (), 3, (475, 475)
    c.data.structures, c.data.naming = ("left lung", "right lung"), "seed" if "seed_naming" in chosen.flags else "patient"
    c.data.fractions, c.eval.tables = (0.6, 0.1, 0.3), ("left_right",)
    c.train.augment, c.train.eval_every, c.train.best = AUGMENT[stage], 5, "val_dice"
    c.train.epochs = {"cutmix": 30, "distance": 25}.get(stage, 50)
    c.train.batch_size, c.optim.accumulate = 3 if stage == "histogram" else 8, 3
    c.loss.terms, c.loss.aux_terms, c.loss.aux_weights = (("cross_entropy", 1.0),), (("cross_entropy", 1.0),), (0.4,)
    if stage == "distance":
        c.loss.terms = (("cross_entropy", 1.0), ("hausdorff", 0.01))
    if stage == "final":
        c.loss.terms, c.loss.aux_weights = (("dice", 0.01), ("boundary", 0.99)), (0.3,)
        c.loss.options = {"dice": {"background": False, "batch": True}, "boundary": {"variant": "seed"}}
        c.optim.name, c.optim.lr = "adam", 5e-4
        c.schedule.name, c.schedule.options = "cosine", {"period": 100, "per_epoch": True}
    else:
        c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.options = "sgd", 1e-3, 1e-4, {"momentum": 0.9}
        c.optim.groups = ((r"^(head|aux)\.", {"lr": 10.0}),)
        c.schedule.name = "poly"
        c.schedule.options = {"power": 0.9, "period": 35 if stage == "cutmix" else c.train.epochs, "per_epoch": True}
    c.embedded = _PHANTOM + (_QUICK if "quick" in chosen.flags else ())
    return c
