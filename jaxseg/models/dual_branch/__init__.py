"""The BraTS 3-D project's multi-branch networks: network.py; their stems, ways down and ways up: blocks.py."""

from jaxseg.models.dual_branch.network import KEY_MAPPINGS, VARIANTS

__all__ = ["KEY_MAPPINGS", "VARIANTS"]
