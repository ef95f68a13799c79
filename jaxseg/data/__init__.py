"""Data: the cases of a data set, reading files, preparation, stores on disk, and streams of batches. Needs no jax."""
