"""Data sets of one's own in the layouts that people use: what lies in the folder says what is in it."""
