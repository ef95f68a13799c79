"""A trained network on whole images and volumes: windows, averaging, cascade, post-processing, files written."""
