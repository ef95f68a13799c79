"""The names that a config is checked against before jax is imported are those of the registries. Run as a script: write them."""

import importlib
from pathlib import Path

from jaxseg.augment import TRANSFORMS
from jaxseg.config import names
from jaxseg.data import datasets
from jaxseg.losses import TERMS
from jaxseg.models.registry import FAMILIES

FILE = Path(names.__file__)


def text() -> str:
    """The module as it must be."""
    networks = {family: sorted(importlib.import_module(f"jaxseg.models.{family}").VARIANTS) for family in FAMILIES}
    head = FILE.read_text(encoding="utf-8").partition("NETWORKS")[0]
    lines = ["NETWORKS = {", *(f"    {family!r}: {tuple(known)!r}," for family, known in networks.items()), "}"]
    for name, known in (("LOSSES", TERMS), ("TRANSFORMS", TRANSFORMS), ("DATASETS", datasets.MODULES)):
        lines.append(f"{name} = {tuple(sorted(known))!r}")
    return head + "\n".join(lines) + "\n"


def test_the_names_are_those_of_the_registries():
    scope = {}
    exec(text(), scope)
    for name in ("NETWORKS", "LOSSES", "TRANSFORMS", "DATASETS"):
        assert getattr(names, name) == scope[name], "run: python tests/test_names.py"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
