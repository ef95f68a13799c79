"""A data set measured, and what nnU-Net would plan for it, as a config file: spacing, patch, batch and network. No jax."""
