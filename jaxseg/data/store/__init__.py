"""Stores of prepared examples on disk: built once, opened as memory maps."""
