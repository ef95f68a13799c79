"""Scores: counts of voxels and their scores, summaries of rows, the figures of published projects, surface distances."""

from jaxseg.metrics.counts import Counts, confusion, count, dice, f1, iou, join, pool, precision, recall, specificity
from jaxseg.metrics.projects import class_table, effisegnet_scores, left_right_scores, seed_per_image, seed_scores
from jaxseg.metrics.summarize import bootstrap, by_class, by_patient, detection, means, rows_of, sweep, write_csv

__all__ = ["Counts", "bootstrap", "by_class", "by_patient", "class_table", "confusion", "count", "detection", "dice",
           "effisegnet_scores", "f1", "iou", "join", "left_right_scores", "means", "pool", "precision", "recall", "rows_of",
           "seed_per_image", "seed_scores", "specificity", "sweep", "write_csv"]
