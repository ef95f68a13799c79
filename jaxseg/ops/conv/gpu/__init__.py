"""Depthwise convolutions by Pallas kernels; `choose` decides by the measurements in `table`."""
