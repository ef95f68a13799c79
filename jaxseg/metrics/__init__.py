"""Metrics: voxel counts, overlap scores, surface distances, regions, lesions, calibration, and published projects' own tables."""

from jaxseg.metrics.counts import Counts, confusion, count, dice, f1, iou, join, pool, precision, recall, specificity
from jaxseg.metrics.lesions import lesion_rows
from jaxseg.metrics.projects import class_table, effisegnet_scores, ich_per_image, ich_scores, left_right_scores
from jaxseg.metrics.regions import case_scores, labels_from_regions, region_masks, summarize_cases
from jaxseg.metrics.summarize import bootstrap, by_class, by_patient, detection, means, rows_of, sweep, write_csv

__all__ = [
    "Counts",
    "bootstrap",
    "by_class",
    "by_patient",
    "case_scores",
    "class_table",
    "confusion",
    "count",
    "detection",
    "dice",
    "effisegnet_scores",
    "f1",
    "iou",
    "join",
    "labels_from_regions",
    "left_right_scores",
    "lesion_rows",
    "means",
    "pool",
    "precision",
    "recall",
    "region_masks",
    "rows_of",
    "ich_per_image",
    "ich_scores",
    "specificity",
    "summarize_cases",
    "sweep",
    "write_csv",
]
