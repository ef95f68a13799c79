"""Measurements for `primitive.faster`: milliseconds of the ordinary lowering and of oneDNN's, for each direction.

Measured by COMMAND on MACHINE on DATE; medians of interleaved runs. Other work on the machine makes single rows uncertain by
a tenth; several rows ran while one of the two cores was busy, for both lowerings. oneDNN is never used, and has no row, where it
has no special machine code: 3-D depthwise convolutions (2.2 to 5.8 times slower), weight gradients of 5x5 and 1x21 depthwise
convolutions (2.1 and 3.8 times) and of dilated 3-D convolutions (1.2 times).
Blocked layouts of the activations were not faster than channels last: forward of 48^3 x 32 53.4 against 55.4 ms in one thread,
24^3 x 64 25.3 against 24.8, 64^3 x 16 32.4 against 32.9; their weights' gradients 61 against 58, 27 against 27, 37 against 33.
OpenMP's threads, waiting passively, were as fast as tasks on XLA's thread pool for large convolutions (0.97 to 1.1) and two to
three times slower for small ones (7^3 x 16: 0.16 against 0.05 ms); they would also be a second thread pool beside XLA's.
"""

from typing import NamedTuple

from jaxseg.ops.conv.cpu.table import S, Shape

DATE = "2026-11-27"
COMMAND = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m jaxseg.bench.convolutions --onednn"
MACHINE = "2 shared cores of an AMD EPYC (Zen 4, AVX-512), jax 0.10.2, oneDNN 3.2.0, float32"


class OneDnnTiming(NamedTuple):
    """(ordinary lowering, oneDNN) in milliseconds for each direction; None where oneDNN has no special machine code."""

    shape: Shape
    forward: tuple[float, float]
    input_gradient: tuple[float, float]
    weight_gradient: tuple[float, float] | None


def _dense(size: int, rank: int, channels: tuple[int, int], *, batch: int = 1, **options) -> Shape:
    kernel = options.pop("kernel", (3,) * rank)
    name = f"{'x'.join(map(str, kernel))} {size}^{rank} x {batch}, {channels[0]} to {channels[1]} {options or ''}"
    return Shape(name, (batch, *(size,) * rank, channels[0]), kernel, channels[1], **options)


ROWS = (
    OneDnnTiming(_dense(48, 3, (32, 32)), (38.97, 26.84), (69.55, 53.86), (47.82, 30.01)),
    OneDnnTiming(_dense(24, 3, (64, 64)), (20.84, 12.60), (20.73, 12.71), (22.21, 13.39)),
    OneDnnTiming(_dense(12, 3, (128, 128)), (8.92, 5.99), (9.07, 6.13), (17.92, 12.97)),
    OneDnnTiming(_dense(6, 3, (256, 256)), (9.16, 6.40), (4.66, 3.39), (6.89, 4.08)),
    OneDnnTiming(_dense(3, 3, (512, 512)), (4.08, 6.09), (4.13, 7.53), (31.57, 17.97)),
    OneDnnTiming(_dense(4, 3, (320, 320)), (5.18, 5.31), (5.32, 6.05), (8.44, 7.12)),
    OneDnnTiming(S["dense 3^3 64^3 x 16"], (53.39, 32.47), (52.65, 33.03), (97.36, 34.75)),
    OneDnnTiming(_dense(7, 3, (16, 24), stride=2), (0.08, 0.05), (0.08, 0.04), (0.09, 0.06)),
    OneDnnTiming(S["dense 3x3 128^2 x 32"], (7.41, 5.86), (7.55, 6.01), (12.03, 6.87)),
    OneDnnTiming(_dense(256, 2, (64, 64)), (48.12, 43.82), (49.39, 43.00), (45.03, 24.29)),
    OneDnnTiming(_dense(32, 2, (512, 512)), (27.74, 21.93), (24.15, 22.19), (29.33, 23.83)),
    OneDnnTiming(S["dense 3x3 16^2 x 1024"], (28.18, 25.88), (27.97, 30.05), (30.96, 37.06)),
    OneDnnTiming(_dense(8, 2, (512, 512)), (4.09, 4.49), (4.13, 5.56), (3.99, 7.22)),
    OneDnnTiming(S["dense 3x3 64^2 x 64"], (7.33, 5.45), (7.35, 5.45), (10.05, 6.32)),
    OneDnnTiming(S["dense 3x3 32^2 x 128"], (6.53, 5.54), (6.87, 5.64), (8.45, 5.91)),
    OneDnnTiming(S["dense 3x3 16^2 x 256"], (6.46, 5.67), (7.04, 5.87), (7.86, 6.42)),
    OneDnnTiming(_dense(256, 2, (1, 64)), (7.57, 1.80), (9.77, 22.69), (3.63, 2.26)),
    OneDnnTiming(S["stem 3x3 s2 256^2"], (0.68, 0.18), (1.11, 1.72), (1.66, 0.16)),
    OneDnnTiming(S["down 3x3 s2 64^2 x 32"], (0.80, 0.53), (1.34, 0.49), (1.48, 0.57)),
    OneDnnTiming(S["patches 7x7 s4 256^2"], (1.07, 0.39), (1.31, 2.15), (0.70, 0.45)),
    OneDnnTiming(_dense(128, 2, (16, 16), batch=2), (2.87, 1.41), (2.89, 1.44), (13.23, 1.56)),
    OneDnnTiming(_dense(128, 2, (8, 8), batch=2), (1.92, 0.73), (1.88, 0.74), (7.36, 0.49)),
    OneDnnTiming(_dense(64, 2, (128, 128), batch=2, dilation=2), (24.08, 20.72), (24.27, 20.86), (39.90, 31.93)),
    OneDnnTiming(_dense(32, 2, (256, 256), batch=2, dilation=4), (26.32, 19.51), (27.31, 20.04), (33.89, 25.51)),
    OneDnnTiming(_dense(32, 3, (32, 32), dilation=2), (22.20, 15.06), (22.48, 14.76), None),
    OneDnnTiming(_dense(56, 2, (128, 128), batch=2, groups=32), (20.26, 1.48), (18.00, 1.07), (3774.67, 5.14)),
    OneDnnTiming(S["depthwise 3x3 64^2 x 256"], (2.26, 1.64), (2.39, 1.95), (5.27, 2.07)),
    OneDnnTiming(S["depthwise 5x5 64^2 x 64"], (0.84, 0.46), (0.88, 0.46), None),
    OneDnnTiming(S["depthwise 1x21 64^2 x 64"], (0.72, 0.34), (0.75, 0.38), None),
    OneDnnTiming(S["depthwise 21x1 64^2 x 64"], (1.84, 0.40), (1.98, 0.57), (2.23, 0.54)),
    OneDnnTiming(S["depthwise 3x3 s2 64^2 x 96"], (0.38, 0.12), (0.57, 0.20), (0.99, 0.11)),
    OneDnnTiming(S["depthwise 3x3 16^2 x 640"], (0.52, 0.12), (0.38, 0.17), (0.64, 0.17)),
)
