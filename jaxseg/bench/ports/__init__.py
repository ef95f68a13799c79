"""Ports of the networks to PyTorch, used only by the benchmark and the parity tests."""
