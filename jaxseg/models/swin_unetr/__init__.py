"""Swin UNETR: network.py; its attention within shifted windows: windows.py."""

from jaxseg.models.swin_unetr.network import KEY_MAPPINGS, VARIANTS

__all__ = ["KEY_MAPPINGS", "VARIANTS"]
