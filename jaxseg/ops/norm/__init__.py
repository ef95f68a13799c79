"""Normalisation with a fused activation: batch, instance, group and layer norm."""
