"""Trained runs as files for other programs: one that runs with numpy and jax alone, ONNX, PyTorch's and nnU-Net's."""
