"""Import of weights from PyTorch files and export to them, strict and without PyTorch."""
