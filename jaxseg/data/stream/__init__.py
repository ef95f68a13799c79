"""Streams of training batches whose order depends only on (seed, position)."""
