"""Plan as nnU-Net does: measure a data set, choose spacing, patch, batch and network, and write a config. Needs no jax."""
