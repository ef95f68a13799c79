"""Compiled programs: those that take a run's constants as arguments, and those that are kept on disk for the next start."""
