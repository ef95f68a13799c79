"""The forward pass that staged encoders share: embed, blocks, norm, four times; every stage's output is a feature."""

import jax
from flax import nnx

from jaxseg.layers.run import EVAL, Run
from jaxseg.types import Array


class StagedEncoder(nnx.Module):
    """Base of encoders with lists `embeds`, `stages` (lists of blocks) and `norms`, one entry a stage.

    The normalised output of a stage is both its feature and the next stage's input. Features come finest first.
    """

    embeds: nnx.List
    stages: nnx.List
    norms: nnx.List

    def __call__(self, x: Array, run: Run = EVAL) -> list[Array]:
        features = []
        for i, (embed, blocks, norm) in enumerate(zip(self.embeds, self.stages, self.norms)):
            with jax.named_scope(f"stage{i + 1}"):
                x = embed(x, run)
                for block in blocks:
                    x = block(x, run)
                x = norm(x, run)
            features.append(x)
        return features
