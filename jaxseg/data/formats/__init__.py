"""Readers and writers of image files: NIfTI, DICOM series, pictures. The door is volumes.py."""
