"""Networks: `create_model`, `list_models`, and the base class for a network of your own."""

from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.models.registry import create_model, list_models

__all__ = ["Outputs", "Segmenter", "KeyMapping", "Variant", "create_model", "list_models"]
