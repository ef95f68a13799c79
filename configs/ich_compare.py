"""Why does SegNeXt predict nothing on all slices of CT-ICH? BatchNorm's momentum and the loss on empty slices, varied one by one.

    python -m jaxseg.main --mode=compare --config=configs/ich_compare.py                                      # the phantom
    python -m jaxseg.main --mode=compare --config=configs/ich_compare.py --config.data.root=/data/ct-ich
    python -m jaxseg.main --mode=compare --config=configs/ich_compare.py:sizes --config.data.root=/data/ct-ich

Arguments: `sizes` (instead of the question above: SegFormer B0 to B5 beside SegNeXt T to L and UNet-Base); `quick`.
The project's SegNeXt has BatchNorm with a momentum of 0.9 (PyTorch's 0.1 weighs a batch less) and is trained with Dice alone,
whose gradient on a slice without a bleed asks for nothing but less foreground. Beside it: a momentum of 0.1, Dice with
cross-entropy, both; the project's SegFormer-B0, which meets the same loss; and its UNet-Base.

Source: drawcodeboy/scoliosis_seg-task; its SegNeXt-T scores an IoU of 0.888 on all slices because 444 of its 500 test slices are
empty and a prediction of nothing scores 1 there. Measured on real data: not yet.
"""

from configs import ich_segnext
from configs._arguments import parse

DICE, BOTH = (("dice", 1.0),), (("dice", 1.0), ("bce", 1.0))
SIZES = (*(f"segformer_b{i}_ich" for i in range(6)), *(f"segnext_{size}_ich" for size in "tsbl"), "unet_base")
TINY = ("segformer_test_ich", "segnext_test_ich", "unet_test")
PUBLISHED = (
    ("SegNeXt-T, all slices", (("IoU", 0.888), ("precision", 1.0), ("loss", 0.111))),
    ("SegFormer-B0, all slices", (("IoU", 0.3809), ("Dice", 0.3911), ("precision", 0.4172), ("recall", 0.9365))),
)


def variants(segnext: str, segformer: str, unet: str) -> tuple:
    slow = ("model.options", {"norm_momentum": 0.1})
    return (
        ("SegNeXt", (("model.name", segnext),)),
        ("SegNeXt, momentum 0.1", (("model.name", segnext), slow)),
        ("SegNeXt, with cross-entropy", (("model.name", segnext), ("loss.terms", BOTH))),
        ("SegNeXt, both", (("model.name", segnext), slow, ("loss.terms", BOTH))),
        ("SegFormer", (("model.name", segformer),)),
        ("UNet-Base", (("model.name", unet),)),
    )


def get_config(arguments: str = ""):
    flags = parse(arguments, flags=("quick", "sizes")).flags
    quick = "quick" in flags
    c = ich_segnext.get_config("all,quick" if quick else "all")
    c.variant = arguments
    if "sizes" in flags:
        c.compare.models = SIZES
    else:
        c.compare.vary = variants("segnext_t_ich", "segformer_b0_ich", "unet_base")
    c.compare.published = PUBLISHED
    c.embedded += (("loss.terms", DICE),)
    if quick:
        small = variants("segnext_test_ich", "segformer_test_ich", "unet_test")
        c.embedded += (("data.size", (64, 64)),)
        c.embedded += (("compare.models", TINY),) if "sizes" in flags else (("compare.vary", small),)
    return c
