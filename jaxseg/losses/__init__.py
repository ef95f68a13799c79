"""Loss terms: pure functions (logits, labels, *, weight, **options) -> (sum, weight), under names in TERMS."""

from jaxseg.losses import overlap, pointwise

TERMS = {"dice": overlap.dice, "bce": pointwise.bce}

__all__ = ["TERMS"]
