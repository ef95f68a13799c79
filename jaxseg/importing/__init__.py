"""Trained models of other programs as run folders: `jaxseg import`. Nothing of theirs is run or installed."""
