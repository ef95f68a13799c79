"""Measurements behind choose.py: milliseconds of XLA's own lowering, of the chosen one and of PyTorch's, per direction.

Made by: see COMMAND, on MACHINE, on DATE. `python -m jaxseg.ops.conv.bench --peers` prints the rows anew.
"""

from typing import NamedTuple

from jaxseg.ops.conv.spec import Spec

DATE = "2026-11-21"
COMMAND = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m jaxseg.ops.conv.bench --peers"
MACHINE = "2 cores of an AMD EPYC (Zen 5, AVX-512), jax 0.10.2, torch 2.13.0, float32"


class Shape(NamedTuple):
    """One convolution: x [B, *S, C], kernels [*k, C / groups, O], padded by dilation * (k - 1) // 2."""

    name: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    out: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def spec(self) -> Spec:
        rank = len(self.kernel)
        pads = tuple((self.dilation * (k - 1) // 2,) * 2 for k in self.kernel)
        return Spec((self.stride,) * rank, pads, (self.dilation,) * rank, self.groups)


class Row(NamedTuple):
    """Milliseconds of one direction; `lowering` names the chosen module (and function), torch is None if not measured."""

    shape: Shape
    direction: str
    lowering: str
    xla: float
    ours: float
    torch: float | None

    @property
    def ratio(self) -> float:
        """Ours / XLA's own: at most 1.05 by the rule that choose.py follows."""
        return self.ours / self.xla


def _depthwise(name: str, *x: int, kernel: tuple[int, ...], **options) -> Shape:
    return Shape(f"depthwise {name}", x, kernel, x[-1], groups=x[-1], **options)


S = {shape.name: shape for shape in (
    _depthwise("3x3 64^2 x 256", 2, 64, 64, 256, kernel=(3, 3)),
    _depthwise("5x5 64^2 x 32", 2, 64, 64, 32, kernel=(5, 5)),
    _depthwise("5x5 64^2 x 64", 2, 64, 64, 64, kernel=(5, 5)),
    _depthwise("1x21 64^2 x 64", 2, 64, 64, 64, kernel=(1, 21)),
    _depthwise("21x1 64^2 x 64", 2, 64, 64, 64, kernel=(21, 1)),
    _depthwise("1x11 16^2 x 160", 2, 16, 16, 160, kernel=(1, 11)),
    _depthwise("5x5 16^2 x 160", 2, 16, 16, 160, kernel=(5, 5)),
    _depthwise("3x3 16^2 x 640", 2, 16, 16, 640, kernel=(3, 3)),
    _depthwise("7x1 8^2 x 256", 2, 8, 8, 256, kernel=(7, 1)),
    _depthwise("3x3 s2 64^2 x 96", 2, 64, 64, 96, kernel=(3, 3), stride=2),
    _depthwise("3^3 32^3 x 32", 1, 32, 32, 32, 32, kernel=(3, 3, 3)),
    _depthwise("7^3 16^3 x 48", 1, 16, 16, 16, 48, kernel=(7, 7, 7)),
    _depthwise("13^3 16^3 x 32", 1, 16, 16, 16, 32, kernel=(13, 13, 13)),
    Shape("dense 3x3 128^2 x 32", (2, 128, 128, 32), (3, 3), 32),
    Shape("dense 3x3 64^2 x 64", (2, 64, 64, 64), (3, 3), 64),
    Shape("dense 3x3 128^2 x 64", (1, 128, 128, 64), (3, 3), 64),
    Shape("dense 3x3 32^2 x 128", (2, 32, 32, 128), (3, 3), 128),
    Shape("dense 3x3 16^2 x 256", (2, 16, 16, 256), (3, 3), 256),
    Shape("stem 3x3 s2 256^2", (2, 256, 256, 1), (3, 3), 16, stride=2),
    Shape("down 3x3 s2 64^2 x 32", (2, 64, 64, 32), (3, 3), 64, stride=2),
    Shape("patches 7x7 s4 256^2", (1, 256, 256, 3), (7, 7), 32, stride=4),
    Shape("dense 3^3 64^3 x 16", (1, 64, 64, 64, 16), (3, 3, 3), 16),
    Shape("dense 3^3 32^3 x 32", (1, 32, 32, 32, 32), (3, 3, 3), 32),
    Shape("dense 3^3 16^3 x 64", (1, 16, 16, 16, 64), (3, 3, 3), 64),
    Shape("dense 3^3 8^3 x 128", (1, 8, 8, 8, 128), (3, 3, 3), 128),
    Shape("stem 3^3 64^3 4 to 16", (1, 64, 64, 64, 4), (3, 3, 3), 16),
    Shape("down 3^3 s2 32^3 16 to 32", (1, 32, 32, 32, 16), (3, 3, 3), 32, stride=2),
)}

ROWS = (
)
