"""Lowerings of convolutions for CPUs, one file each; `choose` decides between them by the measurements in `table`."""
