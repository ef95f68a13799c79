"""Exact Euclidean distance transform on the device."""
