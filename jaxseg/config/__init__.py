"""Checks of a config: rules for its values and between its keys, and the differences from the defaults.

The tree of keys itself is `configs/_base.py`. Whatever can be refused without reading data or compiling is refused here.
"""

from jaxseg.config.keys import EXTRA, EXTRA_BY_A_RUN, FROM_DATA, NEEDS, NEEDS_OF_MODES, NEUTRAL, UNUSED_IN_FILES
from jaxseg.config.kinds import KINDS
from jaxseg.config.resolve import resolve
from jaxseg.config.resume import neutral
from jaxseg.config.rules import check_mode
from jaxseg.config.tree import as_dict, defaults, difference, flatten, replaced, value_of

__all__ = [
    "EXTRA",
    "EXTRA_BY_A_RUN",
    "FROM_DATA",
    "UNUSED_IN_FILES",
    "KINDS",
    "NEEDS",
    "NEEDS_OF_MODES",
    "NEUTRAL",
    "as_dict",
    "check_mode",
    "defaults",
    "difference",
    "flatten",
    "neutral",
    "replaced",
    "resolve",
    "value_of",
]
