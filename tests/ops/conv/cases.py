"""The shapes on which every lowering is compared with the reference: tiny, odd, smaller than the kernel, strided, dilated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.conv.spec import Spec


class Case(NamedTuple):
    """x [B, *S, C] with kernels [*k, C / groups, O]."""

    name: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    out: int
    stride: int = 1
    pad: int | tuple = 1
    dilation: int = 1
    groups: int = 1
    public: bool = False  # also through ops.conv

    @property
    def spec(self) -> Spec:
        rank = len(self.kernel)
        pads = (self.pad,) * rank if isinstance(self.pad, int) else self.pad
        pads = tuple(p if isinstance(p, tuple) else (p, p) for p in pads)
        return Spec((self.stride,) * rank, pads, (self.dilation,) * rank, self.groups)


DIRECTIONS = ("forward", "input_gradient", "weight_gradient")

DEPTHWISE = (
    Case("3x3 odd size", (2, 9, 7, 4), (3, 3), 4, groups=4, public=True),
    Case("5x5 dilated, map smaller than its reach", (1, 3, 4, 6), (5, 5), 6, pad=4, dilation=2, groups=6),
    Case("row strip wider than the map", (2, 5, 6, 3), (1, 21), 3, pad=(0, 10), groups=3),
    Case("column strip", (2, 10, 3, 4), (7, 1), 4, pad=(3, 0), groups=4),
    Case(
        "strided, two outputs per channel, uneven padding",
        (2, 11, 13, 4),
        (3, 5),
        8,
        stride=2,
        pad=((1, 1), (1, 2)),
        groups=4,
        public=True,
    ),
    Case("3-D", (1, 5, 6, 7, 3), (3, 3, 3), 3, groups=3),
    Case("3-D strided and dilated", (1, 4, 5, 6, 2), (3, 3, 3), 2, stride=2, pad=2, dilation=2, groups=2),
    Case("3-D, so many taps that they are looped over", (1, 9, 8, 9, 2), (5, 5, 5), 2, pad=2, groups=2),
)

VOLUMES = (
    Case("3-D", (2, 5, 6, 7, 3), (3, 3, 3), 3, groups=3),
    Case("3-D, a kernel larger than the map", (1, 4, 3, 6, 2), (5, 7, 9), 2, pad=(2, 3, 4), groups=2),
    Case("3-D, two outputs per channel, uneven padding", (2, 5, 4, 6, 2), (3, 4, 5), 4, pad=((0, 2), (3, 1), (4, 0)), groups=2),
    Case("3-D, more padding than the kernel reaches", (1, 4, 5, 3, 2), (3, 3, 3), 2, pad=(4, 0, 3), groups=2),
)

DENSE = (
    Case("dense 3x3", (2, 7, 5, 3), (3, 3), 4, public=True),
    Case("dense 3x3, more than 16 channels", (2, 4, 5, 18), (3, 3), 3, public=True),
    Case("dense 1x3 dilated, uneven padding", (1, 4, 9, 3), (1, 3), 2, pad=((0, 0), (1, 3)), dilation=2),
    Case("kernel is stride", (2, 5, 6, 3), (2, 2), 4, stride=2, pad=0, public=True),
    Case("dense 7x7 strided by 4", (2, 13, 16, 3), (7, 7), 4, stride=4, pad=3, public=True),
    Case("dense 3x3x3, many channels to few", (2, 3, 5, 4, 5), (3, 3, 3), 2, public=True),
    Case("dense 3x3x3 dilated", (1, 6, 5, 5, 2), (3, 3, 3), 3, pad=2, dilation=2),
    Case("dense 3x3x3 strided", (1, 6, 5, 4, 2), (3, 3, 3), 3, stride=2, public=True),
    Case("dense 3x3x3, few channels to many", (1, 3, 4, 5, 2), (3, 3, 3), 48),
    Case("dense 1x3x2, one slice", (1, 1, 4, 5, 2), (1, 3, 2), 3, pad=(0, 1, 0)),
)


def draw(case: Case, dtype=jnp.float32):
    """(x, w, g) of unit variance, the same for every call."""
    rng = np.random.default_rng(0)
    shape = (*case.kernel, case.x[-1] // case.groups, case.out)
    out = case.spec.output(case.x[1:-1], case.kernel)
    make = lambda s: jnp.asarray(rng.normal(size=s), dtype)
    return make(case.x), make(shape), make((case.x[0], *out, case.out))


def close(found: jax.Array, wanted: jax.Array, terms: int) -> None:
    """Equal up to rounding: eps * sqrt(terms) for a sum of `terms` products of unit variance, times 8 for bad luck."""
    eps = 8 * float(jnp.finfo(found.dtype).eps)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    found, wanted = np.asarray(found, np.float32), np.asarray(wanted, np.float32)
    np.testing.assert_allclose(found, wanted, atol=eps * terms**0.5, rtol=eps)
