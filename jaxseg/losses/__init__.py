"""Loss terms: pure functions (logits, labels, *, weight, **options) -> (sum, weight), under names in TERMS."""

from jaxseg.losses import boundary, overlap, pointwise, published, smoothness

TERMS = {
    "dice": overlap.dice,
    "generalized_dice": overlap.generalized_dice,
    "tversky": overlap.tversky,
    "lovasz": overlap.lovasz,
    "bce": pointwise.bce,
    "cross_entropy": pointwise.cross_entropy,
    "focal": pointwise.focal,
    "squared_error": pointwise.squared_error,
    "boundary": boundary.boundary,
    "hausdorff": boundary.hausdorff,
    "near_pixel": smoothness.near_pixel,
    "bce_dice": published.bce_dice,
    "exp_log": published.exp_log,
    "brats3d_standard": published.brats3d_standard,
    "brats3d_squared": published.brats3d_squared,
    "nnunet": published.nnunet,
}

__all__ = ["TERMS"]
