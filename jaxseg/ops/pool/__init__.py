"""Pooling and maxima with safe gradients."""
