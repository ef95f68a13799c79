"""The BraTS 2-D project's table side by side: its networks, losses, channels and optimisers on the same slices.

    python -m jaxseg.main --mode=compare --config=configs/brats2d_compare.py                                       # the phantom
    python -m jaxseg.main --mode=compare --config=configs/brats2d_compare.py:all --config.data.root=/data/brats_arrays
    python -m jaxseg.main --mode=compare --config=configs/brats2d_compare.py:all,slices --config.data.root=/data/BraTS2017

Arguments: `all` (28 rows of ROWS, five without it); `slices` (cut from BraTS volumes); `quick`. Rows that build the same network
stand there once; the one that starts from another run's edges needs that run first: see configs/brats2d.py.

Sources: as configs/brats2d.py. The published figures are means over 4 classes with background. Measured on real data: not yet.
"""

from typing import Any

from configs import brats2d
from configs._arguments import parse
from configs._brats2d import ROWS
from jaxseg.config import flatten

APART = ("variant", "embedded")  # which are not values of a run
FIVE = ("U-Net", "Attention U-Net", "Res-U-Net++", "U-Net (3++)", "3++ Unet Nobridge Ell-Loss")
FOUR = ("recall", "f1", "precision", "specificity")
PUBLISHED = tuple((title, tuple((key, getattr(row, key)) for key in FOUR)) for title, row in ROWS.items())


def rows(every: bool) -> dict[str, str]:
    """{title: arguments of configs/brats2d.py}; of rows with the same arguments the first one."""
    found: dict[str, str] = {}
    for title, row in ROWS.items():
        if "painted" not in row.arguments and row.arguments not in found.values() and (every or title in FIVE):
            found[title] = row.arguments
    return found


def variants(titles: dict[str, str], words: tuple[str, ...], *, phantom: bool) -> tuple:
    """For each row the values of the keys in which the rows' configs differ."""

    def values(arguments: str) -> dict[str, Any]:
        c = brats2d.get_config(",".join((arguments, *words)))
        return flatten(c.to_dict()) | (dict(c.embedded) if phantom else {})

    each = {title: values(arguments) for title, arguments in titles.items()}
    keys = next(iter(each.values())).keys() - set(APART)
    changed = sorted(key for key in keys if len({repr(mine[key]) for mine in each.values()}) > 1)
    return tuple((title, tuple((key, mine[key]) for key in changed)) for title, mine in each.items())


def get_config(arguments: str = ""):
    chosen = parse(arguments, flags=("all", "slices", "quick")).flags
    words = tuple(sorted(chosen - {"all"}))
    titles = rows("all" in chosen)
    c = brats2d.get_config(",".join(("unet2d", *words)))
    c.variant = arguments
    c.compare.vary, c.compare.published = variants(titles, words, phantom=False), PUBLISHED
    c.embedded += (("compare.vary", variants(titles, words, phantom=True)),)
    return c
