"""SegNeXt: network.py has the network, nmf.py the matrix factorisation of its decoder."""

from jaxseg.models.segnext.network import KEY_MAPPINGS, VARIANTS, Encoder

__all__ = ["KEY_MAPPINGS", "VARIANTS", "Encoder"]
