"""Experiments with runs: their evaluation, and searches over many of them."""
