"""The context of a forward pass: inference or training, and the random key.

Modules hold no random state. A stochastic module has a small integer, `stream`, which is set when the network is split
(`models.functional.split`); its key is `fold_in(context.key, stream)`. Therefore no key is split by hand, and a checkpoint holds
weights only.
"""

import dataclasses
from collections.abc import Mapping

import jax

from jaxseg.types import Array


@dataclasses.dataclass
class Tap:
    """What a forward pass adds to the output of one layer, and what that output was; its operations have "layer:<name>" as scope.

    A gradient with respect to `added` at zero is the gradient with respect to the layer's output (Seg-Grad-CAM).

    Attributes:
      added: array of the output's shape; None: nothing.
      input, output: the layer's first argument and output of the pass, if it is called several times, those of the last call;
        None before the pass.
    """

    added: Array | None = None
    input: Array | None = None
    output: Array | None = None


@dataclasses.dataclass(frozen=True)
class ForwardContext:
    """Settings of one forward pass.

    Attributes:
      train: use batch statistics and stochastic layers, and return auxiliary outputs.
      key: jax random key of this pass; only stochastic layers need it.
      taps: dotted name of a layer -> its tap; `models.functional.Network.apply` sets them.
    """

    train: bool = False
    key: Array | None = None
    taps: Mapping[str, Tap] = dataclasses.field(default_factory=dict)

    def stream(self, number: int) -> Array:
        """The key of stochastic module `number`.

        Raises:
          ValueError: the pass has no key.
        """
        if self.key is None:
            raise ValueError(
                "got no random key for a forward pass with random layers; pass ForwardContext(train=..., key=jax.random.key(n))"
            )
        return jax.random.fold_in(self.key, number)


EVAL = ForwardContext()
