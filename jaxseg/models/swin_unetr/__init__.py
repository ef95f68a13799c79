"""Swin UNETR: network.py has the network, windows.py its attention in shifted windows."""

from jaxseg.models.swin_unetr.network import KEY_MAPPINGS, VARIANTS

__all__ = ["KEY_MAPPINGS", "VARIANTS"]
