"""The BraTS 3-D project's multi-branch networks: network.py has the networks, blocks.py their building blocks."""

from jaxseg.models.dual_branch.network import KEY_MAPPINGS, VARIANTS

__all__ = ["KEY_MAPPINGS", "VARIANTS"]
