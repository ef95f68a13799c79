"""Augmentation on the device, inside the jitted step: batches in, batches out, randomness an argument."""

from jaxseg.augment.compose import TRANSFORMS, build

__all__ = ["TRANSFORMS", "build"]
