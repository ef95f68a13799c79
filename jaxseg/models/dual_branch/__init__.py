"""The BraTS 3-D project's multi-branch networks: network.py; their stems, downsampling and upsampling blocks: blocks.py."""

from jaxseg.models.dual_branch.network import KEY_MAPPINGS, VARIANTS

__all__ = ["KEY_MAPPINGS", "VARIANTS"]
