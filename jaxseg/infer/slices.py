"""A trained network of slices as a function, prepared images in, probabilities out; and the channel it makes for another run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import checkpoint
from jaxseg.data.prepare import channels
from jaxseg.data.records import Recipe
from jaxseg.data.store.base import recipe_from
from jaxseg.metrics import regions
from jaxseg.models import create_model, functional
from jaxseg.ops.image import standardise, to_float
from jaxseg.types import CheckpointError, MismatchError
from jaxseg.utils import files

TARGET_OF = {"edge": "edges", "painted_edge": "edges", "autoencoder": "composite"}  # channel -> what its run has learnt
MADE_BY = "extra_run"  # folder inside a run: a copy of the run that makes its extra channel
_ALIKE = ("size", "window", "spacing", "intensity", "modalities", "filter", "crop", "blur")  # how both must prepare images


class SliceNetwork:
    """The network of a run.

    Args:
      run: a run folder, or a checkpoint folder inside one.
      batch_size: slices per forward pass.
    Attributes:
      record: the run's record.
      recipe: how its images are prepared.
      digest: of the weights and of what the record says about the network.
      order: the class that each region writes, for region heads; () for classes.
    Raises:
      CheckpointError: no run record or no usable checkpoint there.
      MismatchError: the checkpoint does not fit the recorded network.
    """

    def __init__(self, run: Path, *, batch_size: int = 8):
        self.record, self.batch_size = checkpoint.find_record(run), batch_size
        self.recipe = recipe = recipe_from(self.record)
        m = self.record["model"]
        model = create_model(m["name"], in_channels=m["in_channels"], num_classes=m["num_classes"], rank=m["rank"],
                             abstract=True, **m["options"])
        network, _, _ = functional.split(model)
        params, state, _ = checkpoint.load_weights(run)
        network.check(params, state)
        dtype = self.record["config"]["train"]["dtype"]
        self.digest = files.digest(json.dumps([m, dtype, dataclasses.asdict(recipe)], sort_keys=True),
                                   *(part for tree in (params, state) for name in sorted(tree)
                                     for part in (name, np.asarray(tree[name]).tobytes())))
        named = tuple((name, tuple(classes)) for name, classes in self.record["regions"]) if "regions" in self.record else ()
        self.order = regions.class_order(named) if named else ()
        self._weights, single = jax.device_put((params, state)), m["num_classes"] == 1 or bool(self.order)

        @jax.jit
        def forward(weights, image):
            image = standardise(to_float(image), recipe.mean, recipe.std).astype(dtype)
            logits = network.apply(*weights, image)[0].logits
            return jax.nn.sigmoid(logits) if single else jax.nn.softmax(logits, -1)

        self._forward = forward

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Prepared images [n, h, w, C] -> probabilities float32 [n, h, w, K]."""
        outputs = []
        for start in range(0, len(images), self.batch_size):
            part = images[start:start + self.batch_size]
            padded = np.concatenate([part, np.repeat(part[-1:], self.batch_size - len(part), 0)])
            outputs.append(np.asarray(self._forward(self._weights, jnp.asarray(padded)))[:len(part)])
        return np.concatenate(outputs)


def maker_of(run: Path, recipe: Recipe) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """The function that makes a recipe's trained extra channel, and the digest of the weights behind it.

    Args:
      run: the run that learnt edges or composites.
      recipe: of the network that takes the channel.
    Raises:
      CheckpointError: no run there.
      MismatchError: it has learnt something else, or sees images that are prepared in another way.
    """
    name, = channels.trained(recipe.extra)
    try:
        network = SliceNetwork(run, batch_size=16)
    except CheckpointError as error:
        raise CheckpointError(f"config.data.extra_run, for the channel {name!r}: {error}; train it first with "
                              f"config.data.target={TARGET_OF[name]!r}") from error
    theirs = network.recipe
    if theirs.target != TARGET_OF[name] or theirs.extra:
        raise MismatchError(f"config.data.extra_run={run}: it learnt {theirs.target!r} from "
                            f"{', '.join(theirs.extra) or 'the image alone'}; the channel {name!r} needs a run with "
                            f"config.data.target={TARGET_OF[name]!r} and no data.extra")
    ours = {**{key: getattr(recipe, key) for key in _ALIKE}, "channels": recipe.channels - channels.added(recipe.extra)}
    differ = [f"{key} {getattr(theirs, key)} there, {value} here" for key, value in ours.items()
              if getattr(theirs, key) != value]
    if differ:
        raise MismatchError(f"config.data.extra_run={run}: its images are prepared in another way ({'; '.join(differ)}); train "
                            "it with the same keys in config.data")
    return network, network.digest
