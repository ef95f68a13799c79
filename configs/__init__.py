"""Experiments, one file each; `_base.py` is the tree they all start from."""
