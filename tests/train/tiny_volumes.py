"""The smallest network that has what training can get wrong: a convolution, BatchNorm, and a classifier; and runs of it."""

import importlib
import sys

from flax import nnx

from jaxseg.checkpoint import claims
from jaxseg.config import resolve
from jaxseg.layers import Conv
from jaxseg.layers.norm import BatchNorm
from jaxseg.models.base import Outputs, Segmenter

NAME = "tiny_volumes:Tiny"
sys.modules.setdefault("tiny_volumes", sys.modules[__name__])


class Tiny(Segmenter):
    size_multiple = 4

    def __init__(self, *, in_channels, num_classes, rank, rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        self.first = Conv(in_channels, 8, 3, rank=rank, rngs=rngs)
        self.norm = BatchNorm(8, rngs=rngs)
        self.head = Conv(8, num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image, context):
        return Outputs(self.head(nnx.relu(self.norm(self.first(image), context))))


def config(name: str, arguments: str = "quick", **changes):
    """A resolved config on the quick phantom; dots in keys are written as double underscores."""
    tree = importlib.import_module(f"configs.{name}").get_config(arguments)
    given = {"model.name": NAME, "mesh.data": 1, "train.log_every": 100}
    given |= {"eval.surface": False} if tree.data.rank == 3 else {}
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    tree.update_from_flattened_dict(given)
    return resolve(tree, name=name, overridden=list(given))


def release(workdir) -> None:
    """Let go of a run's folder as the end of its process would."""
    held = claims._held.get(workdir.absolute())
    if held:
        held.release()
