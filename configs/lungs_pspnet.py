"""Left and right lung in chest X-rays with PSPNet, in the stages of the source project.

    python -m jaxseg.main --config=configs/lungs_pspnet.py:cutmix --config.data.root=/data/shenzhen --config.model.init=pspnet.pth
    python -m jaxseg.main --config=configs/lungs_pspnet.py:distance --config.data.root=/data/shenzhen   # from runs/...-cutmix
    python -m jaxseg.main --config=configs/lungs_pspnet.py:learnt --config.data.root=/data/shenzhen     # from runs/...-distance
    python -m jaxseg.main --config=configs/lungs_pspnet.py:final --config.data.root=/data/shenzhen      # from runs/...-learnt
    python -m jaxseg.main --config=configs/lungs_pspnet.py:quick                                              # seconds

Arguments: r50 (what the notebooks train; default) or r101 (what the README says); a stage of STAGES in configs/_lungs.py
(`cutmix`); `image_naming` (class 1 is the lung on the image's left; else the patient's left); `quick`. A stage starts from the
default folder of the one before it, under the same other arguments; config.model.init names another.

Source: superbunny38/Multi-Object-Semantic-Segmentation. Differs: a validation set apart from the test set; mirroring swaps the
two labels. Where the source joins a set and its copies (794 pictures), each picture is drawn twice an epoch and equalised with
probability 1/2, mirrored with 1/4 (its copies are mirrored with 1/2). Not recoverable from the source, hence ours: the weights
of the Hausdorff term, what `learnt` sums, the settings of `albumentations` and `cutout`. Published, mean Dice (left, right of
the image) on 169 Shenzhen pictures: mirror .9425 (.9538, .9312), cutmix .9501 (.9622, .9380), albumentations .9473 (.9601,
.9345), cutout .4597 (.2758, .6436), hausdorff .613 (.5941, .6328), distance .9554 after 10 epochs and .9555 (.9645, .9464) after
25, learnt .9612 (.9671, .9553), weighted .9498 (.9560, .9436), final .98 (.98141, .97686). Measured: not yet.
"""

from configs import _imagenet
from configs._arguments import one_of, parse
from configs._base import base
from configs._lungs import CROSS, EQUALIZE, PHANTOM, QUICK, STAGES


def get_config(arguments: str = ""):
    chosen = parse(arguments, sizes=("r50", "r101"), flags=(*STAGES, "image_naming", "quick"))
    name = one_of(chosen.flags, STAGES) or "cutmix"
    stage, words = STAGES[name], (arguments or "cutmix").split(",")
    c = base()
    c.variant, c.seed = arguments, 1234
    c.model.name = "pspnet_test" if "quick" in chosen.flags else f"pspnet_{chosen.size or 'r50'}"
    c.model.options = {"bins": (6, 3, 2, 1)}  # the notebooks' order
    c.model.init = (
        "-".join(["runs/lungs_pspnet", *(stage.after if w.strip() == name else w.strip() for w in words)]) if stage.after else ""
    )
    c.data.dataset, c.data.window, c.data.channels, c.data.size = "lungs", (), 3, (475, 475)
    c.data.mean, c.data.std = _imagenet.MEAN, _imagenet.STD
    c.data.structures, c.data.naming = ("left lung", "right lung"), "image" if "image_naming" in chosen.flags else "patient"
    c.data.fractions, c.eval.tables = (0.6, 0.1, 0.3), ("left_right",)
    c.train.augment, c.train.epochs, c.train.best = stage.augment, stage.epochs * stage.copies, "val_dice"
    c.train.eval_every = 5 * stage.copies
    c.train.batch_size, c.optim.accumulate = 3 if stage.augment == EQUALIZE else 8, 3
    c.loss.terms, c.loss.aux_terms, c.loss.aux_weights = stage.terms, (CROSS,), (stage.auxiliary,)
    options = {"dice": {"background": False, "batch": True}, "boundary": {"variant": "segloss"}}
    c.loss.options = {term: options[term] for term, _ in stage.terms if term in options}
    if name == "learnt":  # factors 2 (sigmoid(x) + 1/2) take the place of the weights; the source's x are 1.0 and 0.4
        c.loss.learnable = (("cross_entropy", 1.0), ("boundary", 1.0), ("aux0.cross_entropy", 0.4))
    if name == "final":
        c.optim.name, c.optim.lr = "adam", 5e-4
        c.schedule.name, c.schedule.options = "cosine", {"period": 100 * stage.copies, "per_epoch": True}
    else:
        c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.options = "sgd", 1e-3, 1e-4, {"momentum": 0.9}
        if stage.after:  # "increased weight decay, decreased learning rate": by how much is not recoverable
            c.optim.lr, c.optim.weight_decay = 1e-4, 1e-3
        c.optim.groups = ((r"^(head|aux)\.", {"lr": 10.0}),)
        c.schedule.name = "poly"
        c.schedule.options = {"power": 0.9, "period": 35 if name == "cutmix" else c.train.epochs, "per_epoch": True}
    c.embedded = PHANTOM + (QUICK if "quick" in chosen.flags else ())
    return c
