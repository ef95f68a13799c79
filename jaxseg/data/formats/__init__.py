"""Readers and writers of image files: NIfTI, DICOM series, pictures; volumes.py reads and writes all of them."""
