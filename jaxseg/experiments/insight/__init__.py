"""Explanations of networks: Seg-Grad-CAM maps, and the weights that attention gives to modalities and channels."""
