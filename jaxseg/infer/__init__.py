"""Inference on whole images and volumes: sliding windows, test-time averaging, cascade, post-processing, output files."""
