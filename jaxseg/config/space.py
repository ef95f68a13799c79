"""Rules for config.mesh.space, with which several devices compute each image together (`ops.space`)."""

import math
from typing import Any

from jaxseg.config.names import NETWORKS
from jaxseg.config.rules import rule
from jaxseg.utils.lookup import is_path

# Tests compare their gradients with those of one device.
FAMILIES = ("unet3d", "nnunet", "unetr", "swin_unetr", "segnext", "segformer")
WHOLE_IMAGE_LOSSES = ("boundary", "hausdorff", "lovasz", "near_pixel")  # sort all pixels, or look across rows


def check_space(flat: dict[str, Any]) -> None:
    """Refuse networks, losses and sizes with which every device would compute the whole image, or that are untested."""
    space = flat["mesh.space"]
    if space == 1:
        return
    names = {name for family in FAMILIES for name in NETWORKS[family]}
    for name in (flat["model.name"], *flat["compare.models"]):
        rule(
            flat,
            "mesh.space",
            name in names,
            f"{name!r} cannot share the rows of an image among devices; the families {', '.join(FAMILIES)} can; set it to 1",
        )
    rule(
        flat,
        "mesh.space",
        flat["data.size"][0] % space == 0,
        f"must divide the first number of config.data.size={tuple(flat['data.size'])}, so that every device gets as many rows; "
        f"set it to {math.gcd(flat['data.size'][0], space)}, or change that size",
    )
    for key in ("loss.terms", "loss.aux_terms"):
        for name, _ in flat[key]:
            rule(
                flat,
                "mesh.space",
                not is_path(name) and name not in WHOLE_IMAGE_LOSSES,
                f"config.{key}: the term {name!r} may need whole images on one device; use a sum over pixels such as 'dice' "
                "or 'cross_entropy', or set it to 1",
            )
