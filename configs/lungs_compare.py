"""How much weight does a Hausdorff term bear? Ten epochs after CutMix with the full, the minimised and no Hausdorff distance.

    python -m jaxseg.main --mode=compare --config=configs/lungs_compare.py                                    # the phantom
    python -m jaxseg.main --mode=compare --config=configs/lungs_compare.py --config.data.root=/data/shenzhen  # from ...-cutmix

Arguments: r50 or r101, `quick`. All start from the run of configs/lungs_pspnet.py:cutmix (config.model.init names another one; on
the phantom they start from initial weights).

Source: superbunny38/Multi-Object-Semantic-Segmentation, rows "PSPNet pretrained on cutmix (25) (epoch: 10)". Measured: not yet.
"""

from configs import lungs_pspnet
from configs._arguments import parse
from configs._lungs import CROSS

PUBLISHED = (
    ("Hausdorff, 10 epochs", (("Dice", 0.613), ("left", 0.5941), ("right", 0.6328))),
    ("minimised Hausdorff, 10 epochs", (("Dice", 0.9554), ("left", 0.9645), ("right", 0.9464))),
)


def get_config(arguments: str = ""):
    parse(arguments, sizes=("r50", "r101"), flags=("quick",))
    words = [word.strip() for word in arguments.split(",") if word.strip()]
    c = lungs_pspnet.get_config(",".join([*words, "hausdorff"]))
    c.variant = arguments
    c.compare.vary = (
        ("cross-entropy alone", (("loss.terms", (CROSS,)),)),
        ("minimised Hausdorff", (("loss.terms", (CROSS, ("hausdorff", 0.01))),)),
        ("Hausdorff", ()),
    )
    c.compare.published = PUBLISHED
    return c
