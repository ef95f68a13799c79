"""The context of a forward pass: inference or training, and the random key.

Modules hold no random state. A stochastic module owns one small integer, `stream`, numbered when the network is taken apart
(`models.functional.split`); its key is `fold_in(context.key, stream)`. So no key is split by hand, and a checkpoint holds weights
only.
"""

import dataclasses

import jax

from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class ForwardContext:
    """One forward pass.

    Attributes:
      train: batch statistics and stochastic layers on, auxiliary outputs returned.
      key: jax random key of this pass; needed by stochastic layers when they draw.
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
                "this forward pass draws random numbers and has no key; pass ForwardContext(train=..., key=jax.random.key(n))"
            )
        return jax.random.fold_in(self.key, number)


EVAL = ForwardContext()
