"""Report pages of runs and comparisons: one HTML file each, which opens offline and needs no library."""
