"""transformers' SegFormer for images, without dropout."""

import torch.nn.functional as F
from torch import nn


class SegFormer(nn.Module):
    """Logits (stride 4), resized to the image's size as in transformers' own loss."""

    def __init__(self, dims, depths, width, *, channels=3, classes=1):
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        super().__init__()
        self.segmenter = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_channels=channels,
                num_labels=classes,
                hidden_sizes=list(dims),
                depths=list(depths),
                decoder_hidden_size=width,
                classifier_dropout_prob=0.0,
                drop_path_rate=0.0,
            )
        )

    def forward(self, image):
        return F.interpolate(self.segmenter(image).logits, image.shape[2:], mode="bilinear", align_corners=False)
