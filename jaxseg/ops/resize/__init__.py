"""Resizing of feature maps and masks by PyTorch's rules."""
