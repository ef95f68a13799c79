"""Measurements behind choose.py: milliseconds of XLA's own lowering, of the chosen one and of PyTorch's, per direction.

Made by: see COMMAND, on MACHINE, on DATE. `python -m jaxseg.ops.conv.bench --peers` prints the rows anew.
The rows of `slabs` and `stems` were measured while other programs ran: read their ratios, which are of interleaved runs.
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
    Row(S["depthwise 3x3 64^2 x 256"], "forward", "depthwise", 43.99, 1.65, 2.31),
    Row(S["depthwise 3x3 64^2 x 256"], "input_gradient", "depthwise", 39.19, 2.13, 1.08),
    Row(S["depthwise 3x3 64^2 x 256"], "weight_gradient", "depthwise", 57.64, 2.46, 1.15),
    Row(S["depthwise 5x5 64^2 x 32"], "forward", "depthwise", 7.89, 0.44, 0.20),
    Row(S["depthwise 5x5 64^2 x 32"], "input_gradient", "depthwise", 7.50, 0.22, 0.17),
    Row(S["depthwise 5x5 64^2 x 32"], "weight_gradient", "depthwise", 2.12, 0.83, 0.70),
    Row(S["depthwise 5x5 64^2 x 64"], "forward", "depthwise", 14.90, 0.64, 0.28),
    Row(S["depthwise 5x5 64^2 x 64"], "input_gradient", "depthwise", 14.97, 0.58, 0.40),
    Row(S["depthwise 5x5 64^2 x 64"], "weight_gradient", "depthwise", 8.63, 2.10, 2.47),
    Row(S["depthwise 1x21 64^2 x 64"], "forward", "depthwise", 13.40, 0.69, 0.37),
    Row(S["depthwise 1x21 64^2 x 64"], "input_gradient", "depthwise", 12.75, 0.67, 0.44),
    Row(S["depthwise 1x21 64^2 x 64"], "weight_gradient", "depthwise", 9.50, 1.68, 5.17),
    Row(S["depthwise 21x1 64^2 x 64"], "forward", "depthwise", 27.28, 1.18, 9.75),
    Row(S["depthwise 21x1 64^2 x 64"], "input_gradient", "depthwise", 27.83, 0.80, 1.07),
    Row(S["depthwise 21x1 64^2 x 64"], "weight_gradient", "depthwise", 25.73, 1.65, 0.58),
    Row(S["depthwise 1x11 16^2 x 160"], "forward", "depthwise", 1.64, 0.12, 0.06),
    Row(S["depthwise 1x11 16^2 x 160"], "input_gradient", "depthwise", 1.66, 0.10, 0.06),
    Row(S["depthwise 1x11 16^2 x 160"], "weight_gradient", "depthwise", 1.61, 0.15, 0.14),
    Row(S["depthwise 5x5 16^2 x 160"], "forward", "depthwise", 2.38, 0.14, 0.06),
    Row(S["depthwise 5x5 16^2 x 160"], "input_gradient", "depthwise", 2.41, 0.15, 0.08),
    Row(S["depthwise 5x5 16^2 x 160"], "weight_gradient", "depthwise", 2.94, 0.35, 0.34),
    Row(S["depthwise 3x3 16^2 x 640"], "forward", "depthwise", 6.15, 0.33, 0.19),
    Row(S["depthwise 3x3 16^2 x 640"], "input_gradient", "depthwise", 6.23, 0.25, 0.19),
    Row(S["depthwise 3x3 16^2 x 640"], "weight_gradient", "depthwise", 18.28, 0.73, 0.45),
    Row(S["depthwise 7x1 8^2 x 256"], "forward", "depthwise", 0.66, 0.06, 0.04),
    Row(S["depthwise 7x1 8^2 x 256"], "input_gradient", "depthwise", 0.67, 0.06, 0.05),
    Row(S["depthwise 7x1 8^2 x 256"], "weight_gradient", "depthwise", 2.00, 0.07, 0.08),
    Row(S["depthwise 3x3 s2 64^2 x 96"], "forward", "depthwise", 3.77, 0.30, 0.15),
    Row(S["depthwise 3x3 s2 64^2 x 96"], "input_gradient", "depthwise", 28.16, 0.40, 0.43),
    Row(S["depthwise 3x3 s2 64^2 x 96"], "weight_gradient", "depthwise", 3.44, 0.93, 0.37),
    Row(S["depthwise 3^3 32^3 x 32"], "forward", "depthwise", 201.98, 0.95, 0.76),
    Row(S["depthwise 3^3 32^3 x 32"], "input_gradient", "depthwise", 194.09, 0.93, 3.23),
    Row(S["depthwise 3^3 32^3 x 32"], "weight_gradient", "depthwise", 72.96, 3.46, 4.53),
    Row(S["depthwise 7^3 16^3 x 48"], "forward", "depthwise", 404.61, 9.88, 0.78),
    Row(S["depthwise 7^3 16^3 x 48"], "input_gradient", "depthwise", 393.23, 9.73, 6.68),
    Row(S["depthwise 7^3 16^3 x 48"], "weight_gradient", "depthwise", 204.05, 7.40, 4.62),
    Row(S["depthwise 13^3 16^3 x 32"], "forward", "depthwise", 991.22, 43.59, 4.83),
    Row(S["depthwise 13^3 16^3 x 32"], "input_gradient", "depthwise", 1007.25, 42.32, 124.53),
    Row(S["depthwise 13^3 16^3 x 32"], "weight_gradient", "depthwise", 726.06, 82.84, 26.07),
    Row(S["dense 3x3 128^2 x 32"], "forward", "xla", 2.45, 2.45, 1.22),
    Row(S["dense 3x3 128^2 x 32"], "input_gradient", "xla", 2.53, 2.53, 1.31),
    Row(S["dense 3x3 128^2 x 32"], "weight_gradient", "xla", 6.11, 6.11, 1.87),
    Row(S["dense 3x3 64^2 x 64"], "forward", "xla", 2.48, 2.48, 1.19),
    Row(S["dense 3x3 64^2 x 64"], "input_gradient", "xla", 2.48, 2.48, 1.24),
    Row(S["dense 3x3 64^2 x 64"], "weight_gradient", "folded", 5.02, 4.95, 2.10),
    Row(S["dense 3x3 128^2 x 64"], "forward", "xla", 5.09, 5.09, 2.53),
    Row(S["dense 3x3 128^2 x 64"], "input_gradient", "xla", 5.04, 5.04, 2.51),
    Row(S["dense 3x3 128^2 x 64"], "weight_gradient", "folded", 11.23, 8.33, 3.96),
    Row(S["dense 3x3 32^2 x 128"], "forward", "xla", 2.70, 2.70, 1.30),
    Row(S["dense 3x3 32^2 x 128"], "input_gradient", "xla", 1.50, 1.50, 1.28),
    Row(S["dense 3x3 32^2 x 128"], "weight_gradient", "xla", 2.62, 2.62, 1.64),
    Row(S["dense 3x3 16^2 x 256"], "forward", "xla", 2.75, 2.75, 1.30),
    Row(S["dense 3x3 16^2 x 256"], "input_gradient", "xla", 1.89, 1.89, 1.28),
    Row(S["dense 3x3 16^2 x 256"], "weight_gradient", "xla", 3.47, 3.47, 1.60),
    Row(S["stem 3x3 s2 256^2"], "forward", "stems", 1.00, 0.50, 0.32),
    Row(S["stem 3x3 s2 256^2"], "input_gradient", "xla", 0.64, 0.64, 0.46),
    Row(S["stem 3x3 s2 256^2"], "weight_gradient", "xla", 0.38, 0.38, 0.09),
    Row(S["down 3x3 s2 64^2 x 32"], "forward", "xla", 0.37, 0.37, 0.19),
    Row(S["down 3x3 s2 64^2 x 32"], "input_gradient", "xla", 0.33, 0.33, 0.21),
    Row(S["down 3x3 s2 64^2 x 32"], "weight_gradient", "xla", 0.69, 0.69, 0.25),
    Row(S["patches 7x7 s4 256^2"], "forward", "stems", 1.41, 0.78, 1.15),
    Row(S["patches 7x7 s4 256^2"], "input_gradient", "xla", 0.61, 0.61, 0.58),
    Row(S["patches 7x7 s4 256^2"], "weight_gradient", "xla", 0.35, 0.35, 0.15),
    Row(S["dense 3^3 64^3 x 16"], "forward", "slabs", 570.92, 66.69, 58.91),
    Row(S["dense 3^3 64^3 x 16"], "input_gradient", "slabs", 983.71, 60.95, 129.02),
    Row(S["dense 3^3 64^3 x 16"], "weight_gradient", "slabs", 260.54, 29.87, 10.25),
    Row(S["dense 3^3 32^3 x 32"], "forward", "slabs", 118.42, 16.47, 15.59),
    Row(S["dense 3^3 32^3 x 32"], "input_gradient", "slabs", 135.41, 16.07, 30.18),
    Row(S["dense 3^3 32^3 x 32"], "weight_gradient", "slabs", 82.67, 11.18, 5.26),
    Row(S["dense 3^3 16^3 x 64"], "forward", "planes", 15.99, 4.12, 8.65),
    Row(S["dense 3^3 16^3 x 64"], "input_gradient", "planes", 10.95, 4.20, 9.18),
    Row(S["dense 3^3 16^3 x 64"], "weight_gradient", "folded", 27.28, 4.26, 8.13),
    Row(S["dense 3^3 8^3 x 128"], "forward", "planes", 4.53, 2.11, 3.16),
    Row(S["dense 3^3 8^3 x 128"], "input_gradient", "planes", 4.62, 2.20, 3.41),
    Row(S["dense 3^3 8^3 x 128"], "weight_gradient", "folded", 11.78, 1.79, 3.25),
    Row(S["stem 3^3 64^3 4 to 16"], "forward", "slabs", 179.81, 16.75, 43.80),
    Row(S["stem 3^3 64^3 4 to 16"], "input_gradient", "slabs", 192.42, 11.35, 65.49),
    Row(S["stem 3^3 64^3 4 to 16"], "weight_gradient", "slabs", 113.06, 14.00, 37.16),
    Row(S["down 3^3 s2 32^3 16 to 32"], "forward", "planes", 4.13, 0.93, 2.08),
    Row(S["down 3^3 s2 32^3 16 to 32"], "input_gradient", "planes", 132.09, 1.57, 2.11),
    Row(S["down 3^3 s2 32^3 16 to 32"], "weight_gradient", "planes", 16.12, 1.40, 2.02),
)
