"""Evaluation of a network on a split, for slices and volumes: counts, scores, the report, and an intensity-only baseline."""
