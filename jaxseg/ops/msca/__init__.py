"""SegNeXt's multi-scale convolutional attention as one function."""
