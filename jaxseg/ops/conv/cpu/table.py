"""Measurements for choose.py: milliseconds of XLA's own lowering, the chosen one and PyTorch's, for each direction.

Measured by COMMAND on MACHINE on DATE; `python -m jaxseg.bench.convolutions --peers` prints the rows again.
The rows of dense 3^3 and stem 3^3 were measured on 2026-11-22 (`--only "dense 3^3"`, `--only "stem 3^3"`), after a change of
slabs.py. The times of spectral.py are of 2026-11-27, the minimum of 60 calls on a busy machine; interleaved with depthwise.py,
which was chosen before, they were 0.006 to 0.23 of its times in the rows of 13^3, and 0.12 for the weight gradient of 7^3.
PyTorch's threads wait passively (OMP_WAIT_POLICY), because they would otherwise spin on the cores on which XLA is timed next.
"""

from typing import NamedTuple

from jaxseg.ops.conv.spec import Spec

DATE = "2026-11-21"
COMMAND = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m jaxseg.bench.convolutions --peers"
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
    def weights(self) -> tuple[int, ...]:
        """The shape of w."""
        return (*self.kernel, self.x[-1] // self.groups, self.out)

    @property
    def spec(self) -> Spec:
        rank = len(self.kernel)
        pads = tuple((self.dilation * (k - 1) // 2,) * 2 for k in self.kernel)
        return Spec((self.stride,) * rank, pads, (self.dilation,) * rank, self.groups)


class Timing(NamedTuple):
    """Milliseconds of one direction; `lowering` is the chosen module (and function); torch is None if it was not measured."""

    shape: Shape
    direction: str
    lowering: str
    xla: float
    ours: float
    torch: float | None

    @property
    def ratio(self) -> float:
        """Time of the chosen lowering / XLA's own; choose.py keeps it below 1.05."""
        return self.ours / self.xla


def _depthwise(name: str, *x: int, kernel: tuple[int, ...], **options) -> Shape:
    return Shape(f"depthwise {name}", x, kernel, x[-1], groups=x[-1], **options)


S = {
    shape.name: shape
    for shape in (
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
        Shape("dense 3x3 16^2 x 1024", (1, 16, 16, 1024), (3, 3), 1024),
        Shape("stem 3x3 s2 256^2", (2, 256, 256, 1), (3, 3), 16, stride=2),
        Shape("down 3x3 s2 64^2 x 32", (2, 64, 64, 32), (3, 3), 64, stride=2),
        Shape("patches 7x7 s4 256^2", (1, 256, 256, 3), (7, 7), 32, stride=4),
        Shape("dense 3^3 64^3 x 16", (1, 64, 64, 64, 16), (3, 3, 3), 16),
        Shape("dense 3^3 32^3 x 32", (1, 32, 32, 32, 32), (3, 3, 3), 32),
        Shape("dense 3^3 16^3 x 64", (1, 16, 16, 16, 64), (3, 3, 3), 64),
        Shape("dense 3^3 8^3 x 128", (1, 8, 8, 8, 128), (3, 3, 3), 128),
        Shape("stem 3^3 64^3 4 to 16", (1, 64, 64, 64, 4), (3, 3, 3), 16),
        Shape("down 3^3 s2 32^3 16 to 32", (1, 32, 32, 32, 16), (3, 3, 3), 32, stride=2),
    )
}

ROWS = (
    Timing(S["depthwise 3x3 64^2 x 256"], "forward", "depthwise", 45.33, 2.07, 1.23),
    Timing(S["depthwise 3x3 64^2 x 256"], "input_gradient", "depthwise", 46.64, 1.52, 1.84),
    Timing(S["depthwise 3x3 64^2 x 256"], "weight_gradient", "depthwise", 64.26, 2.41, 1.39),
    Timing(S["depthwise 5x5 64^2 x 32"], "forward", "depthwise", 8.74, 0.45, 0.46),
    Timing(S["depthwise 5x5 64^2 x 32"], "input_gradient", "depthwise", 8.66, 0.45, 0.62),
    Timing(S["depthwise 5x5 64^2 x 32"], "weight_gradient", "depthwise", 2.78, 1.25, 1.41),
    Timing(S["depthwise 5x5 64^2 x 64"], "forward", "depthwise", 17.28, 0.86, 0.57),
    Timing(S["depthwise 5x5 64^2 x 64"], "input_gradient", "depthwise", 17.52, 0.89, 0.91),
    Timing(S["depthwise 5x5 64^2 x 64"], "weight_gradient", "depthwise", 9.31, 2.46, 3.78),
    Timing(S["depthwise 1x21 64^2 x 64"], "forward", "depthwise", 15.11, 0.83, 0.69),
    Timing(S["depthwise 1x21 64^2 x 64"], "input_gradient", "depthwise", 15.56, 0.89, 0.96),
    Timing(S["depthwise 1x21 64^2 x 64"], "weight_gradient", "depthwise", 9.88, 2.19, 22.91),
    Timing(S["depthwise 21x1 64^2 x 64"], "forward", "depthwise", 30.69, 1.15, 0.78),
    Timing(S["depthwise 21x1 64^2 x 64"], "input_gradient", "depthwise", 30.56, 1.33, 0.97),
    Timing(S["depthwise 21x1 64^2 x 64"], "weight_gradient", "depthwise", 29.25, 2.42, 0.94),
    Timing(S["depthwise 1x11 16^2 x 160"], "forward", "depthwise", 1.90, 0.17, 0.14),
    Timing(S["depthwise 1x11 16^2 x 160"], "input_gradient", "depthwise", 1.85, 0.12, 0.11),
    Timing(S["depthwise 1x11 16^2 x 160"], "weight_gradient", "depthwise", 1.49, 0.19, 0.34),
    Timing(S["depthwise 5x5 16^2 x 160"], "forward", "depthwise", 2.79, 0.23, 0.19),
    Timing(S["depthwise 5x5 16^2 x 160"], "input_gradient", "depthwise", 2.84, 0.24, 0.21),
    Timing(S["depthwise 5x5 16^2 x 160"], "weight_gradient", "depthwise", 2.80, 0.34, 0.78),
    Timing(S["depthwise 3x3 16^2 x 640"], "forward", "depthwise", 7.16, 0.35, 0.42),
    Timing(S["depthwise 3x3 16^2 x 640"], "input_gradient", "depthwise", 7.18, 0.35, 0.56),
    Timing(S["depthwise 3x3 16^2 x 640"], "weight_gradient", "depthwise", 23.30, 0.85, 0.73),
    Timing(S["depthwise 7x1 8^2 x 256"], "forward", "depthwise", 0.82, 0.07, 0.09),
    Timing(S["depthwise 7x1 8^2 x 256"], "input_gradient", "depthwise", 0.81, 0.08, 0.09),
    Timing(S["depthwise 7x1 8^2 x 256"], "weight_gradient", "depthwise", 2.34, 0.11, 0.24),
    Timing(S["depthwise 3x3 s2 64^2 x 96"], "forward", "depthwise", 4.37, 0.36, 0.36),
    Timing(S["depthwise 3x3 s2 64^2 x 96"], "input_gradient", "depthwise", 44.20, 0.68, 0.63),
    Timing(S["depthwise 3x3 s2 64^2 x 96"], "weight_gradient", "depthwise", 3.35, 1.11, 0.53),
    Timing(S["depthwise 3^3 32^3 x 32"], "forward", "depthwise", 271.66, 1.13, 0.96),
    Timing(S["depthwise 3^3 32^3 x 32"], "input_gradient", "depthwise", 226.86, 0.95, 3.59),
    Timing(S["depthwise 3^3 32^3 x 32"], "weight_gradient", "depthwise", 72.32, 4.01, 4.86),
    Timing(S["depthwise 7^3 16^3 x 48"], "forward", "depthwise", 451.14, 3.66, 1.26),
    Timing(S["depthwise 7^3 16^3 x 48"], "input_gradient", "depthwise", 441.04, 3.78, 7.60),
    Timing(S["depthwise 7^3 16^3 x 48"], "weight_gradient", "spectral", 227.43, 3.00, 5.22),
    Timing(S["depthwise 13^3 16^3 x 32"], "forward", "spectral", 1436.97, 2.80, 8.37),
    Timing(S["depthwise 13^3 16^3 x 32"], "input_gradient", "spectral", 1440.35, 3.28, 76.17),
    Timing(S["depthwise 13^3 16^3 x 32"], "weight_gradient", "spectral", 944.83, 3.06, 28.58),
    Timing(S["dense 3x3 128^2 x 32"], "forward", "threaded", 3.12, 2.44, 1.96),
    Timing(S["dense 3x3 128^2 x 32"], "input_gradient", "threaded", 2.96, 2.13, 1.82),
    Timing(S["dense 3x3 128^2 x 32"], "weight_gradient", "blocks", 6.88, 6.29, 2.94),
    Timing(S["dense 3x3 64^2 x 64"], "forward", "threaded", 3.00, 2.17, 1.76),
    Timing(S["dense 3x3 64^2 x 64"], "input_gradient", "threaded", 3.09, 2.18, 2.95),
    Timing(S["dense 3x3 64^2 x 64"], "weight_gradient", "blocks", 5.46, 4.64, 3.12),
    Timing(S["dense 3x3 128^2 x 64"], "forward", "threaded", 3.47, 3.35, 3.25),
    Timing(S["dense 3x3 128^2 x 64"], "input_gradient", "threaded", 3.24, 3.15, 3.19),
    Timing(S["dense 3x3 128^2 x 64"], "weight_gradient", "blocks", 12.09, 7.67, 4.68),
    Timing(S["dense 3x3 32^2 x 128"], "forward", "xla", 1.79, 1.79, 1.69),
    Timing(S["dense 3x3 32^2 x 128"], "input_gradient", "xla", 1.99, 1.99, 1.83),
    Timing(S["dense 3x3 32^2 x 128"], "weight_gradient", "folded", 2.86, 2.46, 2.20),
    Timing(S["dense 3x3 16^2 x 256"], "forward", "xla", 1.81, 1.81, 1.64),
    Timing(S["dense 3x3 16^2 x 256"], "input_gradient", "xla", 2.50, 2.50, 1.89),
    Timing(S["dense 3x3 16^2 x 256"], "weight_gradient", "folded", 3.59, 2.55, 3.69),
    Timing(S["dense 3x3 16^2 x 1024"], "forward", "products", 85.41, 15.90, 26.97),
    Timing(S["dense 3x3 16^2 x 1024"], "input_gradient", "products", 59.06, 15.49, 18.08),
    Timing(S["dense 3x3 16^2 x 1024"], "weight_gradient", "blocks", 42.07, 20.25, 31.93),
    Timing(S["stem 3x3 s2 256^2"], "forward", "stems", 0.66, 0.29, 0.23),
    Timing(S["stem 3x3 s2 256^2"], "input_gradient", "xla", 0.83, 0.83, 1.08),
    Timing(S["stem 3x3 s2 256^2"], "weight_gradient", "xla", 0.76, 0.76, 0.21),
    Timing(S["down 3x3 s2 64^2 x 32"], "forward", "xla", 0.49, 0.49, 0.43),
    Timing(S["down 3x3 s2 64^2 x 32"], "input_gradient", "xla", 0.58, 0.58, 0.45),
    Timing(S["down 3x3 s2 64^2 x 32"], "weight_gradient", "xla", 0.89, 0.89, 0.60),
    Timing(S["patches 7x7 s4 256^2"], "forward", "stems", 1.29, 0.67, 0.33),
    Timing(S["patches 7x7 s4 256^2"], "input_gradient", "xla", 0.80, 0.80, 0.85),
    Timing(S["patches 7x7 s4 256^2"], "weight_gradient", "xla", 0.49, 0.49, 0.34),
    Timing(S["dense 3^3 64^3 x 16"], "forward", "slabs", 142.55, 17.79, 10.29),
    Timing(S["dense 3^3 64^3 x 16"], "input_gradient", "slabs", 151.52, 17.71, 10.58),
    Timing(S["dense 3^3 64^3 x 16"], "weight_gradient", "slabs", 247.46, 22.49, 10.06),
    Timing(S["dense 3^3 32^3 x 32"], "forward", "slabs", 44.16, 8.37, 6.75),
    Timing(S["dense 3^3 32^3 x 32"], "input_gradient", "slabs", 37.57, 7.53, 4.54),
    Timing(S["dense 3^3 32^3 x 32"], "weight_gradient", "slabs", 76.77, 8.84, 4.96),
    Timing(S["dense 3^3 16^3 x 64"], "forward", "planes", 10.60, 3.09, 10.32),
    Timing(S["dense 3^3 16^3 x 64"], "input_gradient", "planes", 10.50, 3.04, 10.66),
    Timing(S["dense 3^3 16^3 x 64"], "weight_gradient", "folded", 27.84, 4.74, 9.81),
    Timing(S["dense 3^3 8^3 x 128"], "forward", "planes", 3.83, 1.67, 4.01),
    Timing(S["dense 3^3 8^3 x 128"], "input_gradient", "planes", 3.99, 1.78, 4.21),
    Timing(S["dense 3^3 8^3 x 128"], "weight_gradient", "folded", 10.15, 1.83, 4.13),
    Timing(S["stem 3^3 64^3 4 to 16"], "forward", "slabs", 122.37, 13.57, 40.77),
    Timing(S["stem 3^3 64^3 4 to 16"], "input_gradient", "slabs", 149.09, 11.94, 43.14),
    Timing(S["stem 3^3 64^3 4 to 16"], "weight_gradient", "slabs", 96.52, 12.22, 71.55),
    Timing(S["down 3^3 s2 32^3 16 to 32"], "forward", "planes", 3.62, 1.40, 3.51),
    Timing(S["down 3^3 s2 32^3 16 to 32"], "input_gradient", "planes", 153.32, 1.72, 4.37),
    Timing(S["down 3^3 s2 32^3 16 to 32"], "weight_gradient", "planes", 18.37, 2.37, 3.04),
)
