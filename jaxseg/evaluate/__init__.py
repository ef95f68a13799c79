"""Scores of a network on a split, of slices and of volumes: counts, figures, the report, what intensity alone can do."""
