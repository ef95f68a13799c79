"""SegNeXt: network.py; the factorisation of its decoder: nmf.py."""

from jaxseg.models.segnext.network import KEY_MAPPINGS, VARIANTS, Encoder

__all__ = ["KEY_MAPPINGS", "VARIANTS", "Encoder"]
