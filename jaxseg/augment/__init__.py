"""Augmentation of whole batches on the device, inside the jitted step; random keys are arguments."""

from jaxseg.augment.compose import TRANSFORMS, build

__all__ = ["TRANSFORMS", "build"]
