"""Non-negative matrix factorisation as a layer: the "ham" of Hamburger (Geng et al. 2021, arXiv 2109.04553, algorithm 2)."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax

from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.norm import Buffer
from jaxseg.layers.residual import Stochastic
from jaxseg.ops import tally
from jaxseg.types import Array


class NMF(Stochastic):
    """Replace x by its non-negative rank-R approximation, which is computed by multiplicative updates.

    With X = x [B, N, D] (positions by channels, >= 0) and bases B [B, D, R]:
    coef = softmax_R(X B); repeat `steps` times: coef <- coef (X B) / (coef (B'B) + eps), B <- B (X' coef) /
    (B (coef' coef) + eps); one more update of coef; the result is coef B'. Everything is computed in float32.

    Args:
      channels: D.
      bases: R.
      train_steps, eval_steps: number of updates in training and in inference.
      eps: added to denominators.
      quotient_first: compute coef * (num / (den + eps)) instead of (coef * num) / (den + eps); they differ in the last bits.
      frozen_steps: no gradient through the softmax and the steps; only the last update and the product have one, through x.
      initial: "random": bases uniform in (0, 1), normalised over D, are drawn in every pass (from the pass's key, or a fixed key
        in inference without one). "buffer": one set of bases [1, D, R] is part of the state, and of imported and exported files.
      update: when the buffer moves towards the batch mean of the computed bases (by `eta`, then normalised): "none", "train",
        or "eval" (the haemorrhage project updates in inference, so that results depend on the order of images).
      eta: step size of that update.
    """

    def __init__(
        self,
        channels: int,
        bases: int,
        *,
        train_steps: int = 6,
        eval_steps: int = 7,
        eps: float = 1e-6,
        quotient_first: bool = False,
        frozen_steps: bool = False,
        initial: str = "random",
        update: str = "none",
        eta: float = 0.9,
        rngs: nnx.Rngs,
    ):
        super().__init__()
        if initial not in ("random", "buffer"):
            raise ValueError(f"got initial={initial!r}; must be 'random' or 'buffer'")
        if update not in ("none", "train", "eval") or (update != "none" and initial == "random"):
            raise ValueError(
                f"got update={update!r} with initial={initial!r}; must be 'none', or for initial='buffer' also 'train' or 'eval'"
            )
        self.channels, self.num_bases = channels, bases
        self.train_steps, self.eval_steps, self.eps = train_steps, eval_steps, eps
        self.quotient_first, self.frozen_steps = quotient_first, frozen_steps
        self.update, self.eta = update, eta
        self.bases = Buffer(draw_bases(rngs.params(), 1, channels, bases)) if initial == "buffer" else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        """Approximate x [B, *S, D]; the result has the same shape."""
        shape, dtype = x.shape, x.dtype
        x = rearrange(x, "b ... d -> b (...) d").astype(jnp.float32)
        bases = self._bases(x.shape[0], context)
        steps = self.train_steps if context.train else self.eval_steps
        stop = lax.stop_gradient if self.frozen_steps else (lambda a: a)
        y, b = stop(x), stop(bases)
        coef = jax.nn.softmax(_matmul(y, b), axis=-1)  # [B, N, R]
        tally.add("mul", math.prod(coef.shape))  # the reference multiplies by a temperature of 1
        for _ in range(steps):
            coef = self._ratio(coef, _matmul(y, b), _matmul(coef, _matmul(_t(b), b)))
            b = self._ratio(b, _matmul(_t(y), coef), _matmul(b, _matmul(_t(coef), coef)))
        coef, b = stop(coef), stop(b)
        coef = self._ratio(coef, _matmul(x, b), _matmul(coef, _matmul(_t(b), b)))
        if self.update == ("train" if context.train else "eval"):
            moved = self.bases[...] + self.eta * (lax.stop_gradient(b).mean(0, keepdims=True) - self.bases[...])
            self.bases[...] = _normalize(moved)
        return _matmul(coef, _t(b)).astype(dtype).reshape(shape)

    def _bases(self, batch: int, context: ForwardContext) -> Array:
        if self.bases is not None:
            return jnp.broadcast_to(self.bases[...], (batch, self.channels, self.num_bases))
        key = jax.random.key(0) if context.key is None else context.stream(self.stream)
        return draw_bases(key, batch, self.channels, self.num_bases)

    def _ratio(self, value: Array, num: Array, den: Array) -> Array:
        tally.add("mul", math.prod(value.shape))
        if self.quotient_first:
            return value * (num / (den + self.eps))
        return value * num / (den + self.eps)


def draw_bases(key: Array, batch: int, channels: int, bases: int) -> Array:
    """Random bases [batch, channels, bases], uniform in (0, 1) and then normalised to unit length over the channels."""
    return _normalize(jax.random.uniform(key, (batch, channels, bases)))


def _normalize(b: Array) -> Array:
    return b / jnp.maximum(jnp.linalg.norm(b, axis=1, keepdims=True), 1e-12)


def _t(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _matmul(a: Array, b: Array) -> Array:
    tally.add("matmul", math.prod(a.shape) * b.shape[-1])
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)  # float32 on tensor cores too
