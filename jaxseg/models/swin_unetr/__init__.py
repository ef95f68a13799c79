"""Swin UNETR: network.py; its attention within shifted windows: windows.py."""

from jaxseg.models.swin_unetr.network import SPELLINGS, VARIANTS

__all__ = ["SPELLINGS", "VARIANTS"]
