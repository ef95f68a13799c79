"""Convolutions by oneDNN, an optional dependency: the compiled handler, and the shapes for which it is faster."""
