"""The context of a forward pass: inference or training, and the random key.

Modules hold no random state. A stochastic module has a small integer, `stream`, which is set when the network is split
(`models.functional.split`); its key is `fold_in(context.key, stream)`. Therefore no key is split by hand, and a checkpoint holds
weights only.
"""

import dataclasses

import jax

from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class ForwardContext:
    """Settings of one forward pass.

    Attributes:
      train: use batch statistics and stochastic layers, and return auxiliary outputs.
      key: jax random key of this pass; only stochastic layers need it.
    """

    train: bool = False
    key: Array | None = None

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
