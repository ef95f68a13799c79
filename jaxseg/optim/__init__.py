"""Optimisers with parameter groups (build), learning-rate schedules (schedules), and averages of the weights (average)."""
