"""Optimisers with regex groups (build), factors of the learning rate over time (schedules), weight averages (average)."""
