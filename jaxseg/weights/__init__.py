"""Weights of others: strict import from PyTorch files and export to them, without PyTorch."""
