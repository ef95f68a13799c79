"""SegNeXt: network.py; the factorisation of its decoder: nmf.py."""

from jaxseg.models.segnext.network import SPELLINGS, VARIANTS, Encoder

__all__ = ["SPELLINGS", "VARIANTS", "Encoder"]
