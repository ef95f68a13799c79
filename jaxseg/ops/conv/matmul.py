"""Matrix product of x [..., C] and w [C, O] with a weight gradient for CPUs.

dw = x^T g contracts both operands over their long first axis. XLA's CPU matrix product is 1.2 to 3 times faster if one of them is
transposed first (cpu/table.py); here it is the smaller one. The barrier after the transposition keeps XLA from folding it back
into the product. The barrier before it keeps XLA from fusing the operations that compute the operand (such as a sum of depthwise
convolutions) into the transposition, column by column, which took about 7 ms for each of three operands in SegNeXt-T.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices, plain, space
from jaxseg.types import Array


def matmul(x: Array, w: Array) -> Array:
    """[..., C] and [C, O] -> [..., O], in their common dtype."""
    # rows that devices share: [B, S, ...] as one axis would have to move
    return x @ w if plain.wanted() or space.count() > 1 else _matmul(x, w)


@jax.custom_vjp
def _matmul(x: Array, w: Array) -> Array:
    return x @ w


def _forward(x: Array, w: Array):
    return x @ w, (x, w)


def _backward(saved, g: Array):
    x, w = saved
    dw = weight_gradient(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]))
    return devices.cotangent(g @ w.T, x), devices.cotangent(dw, w)


_matmul.defvjp(_forward, _backward)


@jax.jit
def weight_gradient(x: Array, g: Array) -> Array:
    """x^T g: [N, C] and [N, O] -> [C, O]."""
    return lax.platform_dependent(x, g, cpu=_transposed_first, default=lambda x, g: jnp.matmul(x.T, g))


def _transposed_first(x: Array, g: Array) -> Array:
    turned = lambda a: lax.optimization_barrier(lax.optimization_barrier(a).T)
    if x.shape[-1] <= g.shape[-1]:
        return turned(x) @ g
    return turned(turned(g) @ x)
