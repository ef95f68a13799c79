"""Measurements for choose.py: milliseconds of the hand-written kernels and of XLA's own convolutions on a GPU, and the resulting
rule.

Measured by `python -m jaxseg.bench.gpu.kernels` (a stage of `python -m jaxseg.bench --gpu`) on one NVIDIA H200, bfloat16, jax
0.11.2, cuDNN 9.19, 2026-11-27, with kernels that had their sizes as constants. XLA's convolutions are those of cuDNN, which has
fast depthwise kernels only for square 2-D windows: there cuDNN takes 0.31 to 0.84 times as long as the hand-written kernels, on
strips 7.5 to 22 times, on 3-D windows 2.6 to 38 times (except for 13^3: 0.72, its weight gradient 8.5). The last three rows, with
arrays of a million numbers, show the time of the launch.

With stride 2, cuDNN's 2-D kernels were faster than hand-written ones (since removed) in seven of nine rows, by up to 3.9 times.
Convolutions with a stride or several outputs per channel are therefore left to cuDNN, although it is slower for 3-D windows.

JAXSEG_CONV=xla selects XLA's own lowering everywhere on a GPU, JAXSEG_CONV=pallas the kernels wherever they are supported.
"""

from jaxseg.ops.conv.cpu.table import Shape, Timing

SMALLEST = 2**18  # numbers in the input, rule of thumb: 1 MB, 0.3 microseconds at the copy's speed, 5 for a launch
DIRECTIONS = ("forward", "input_gradient", "weight_gradient")


def faster(kernel: tuple[int, ...], direction: str) -> bool:
    """Whether the hand-written kernel is faster than XLA's own convolution, by the rows of TABLE_GPU.

    Yes for strips and 3-D windows, except for the forward pass and input gradient with more than 7 taps along an axis, which are
    limited by arithmetic (13^3: 1.4 times cuDNN's time). No for 2-D windows.
    """
    long = [k for k in kernel if k > 1]
    if len(long) < 2:
        return True
    return len(kernel) == 3 and (direction == "weight_gradient" or max(kernel) <= 7)


def _row(x: tuple[int, ...], kernel: tuple[int, ...], dilation: int, *ms: float) -> list[Timing]:
    """Three rows from ours and XLA's, forward, input gradient, weight gradient."""
    shape = Shape(f"depthwise {'x'.join(map(str, kernel))}", x, kernel, x[-1], dilation=dilation, groups=x[-1])
    return [Timing(shape, d, "gpu", ms[2 * i + 1], ms[2 * i], None) for i, d in enumerate(DIRECTIONS)]


TABLE_GPU: tuple[Timing, ...] = (
    *_row((8, 128, 128, 256), (1, 7), 1, 0.0761, 1.5530, 0.0860, 1.5549, 0.1095, 1.1205),
    *_row((8, 128, 128, 256), (1, 11), 1, 0.0953, 2.0554, 0.0974, 2.0507, 0.0857, 1.2998),
    *_row((8, 128, 128, 256), (1, 21), 1, 0.1567, 2.3595, 0.1578, 2.3618, 0.1065, 1.8350),
    *_row((8, 128, 128, 256), (21, 1), 1, 0.1567, 2.3532, 0.1575, 2.3591, 0.1078, 1.8447),
    *_row((16, 40, 40, 320), (1, 21), 1, 0.0468, 0.6107, 0.0505, 0.6112, 0.0647, 0.4884),
    *_row((8, 128, 128, 256), (3, 3), 1, 0.0766, 0.0642, 0.0778, 0.0645, 0.2537, 0.0791),
    *_row((8, 128, 128, 256), (5, 5), 1, 0.1489, 0.1226, 0.1511, 0.1228, 0.2041, 0.1261),
    *_row((8, 64, 64, 384), (7, 7), 1, 0.1516, 0.0939, 0.1540, 0.0940, 0.2156, 0.0918),
    *_row((2, 64, 64, 64, 64), (3, 3, 3), 1, 0.1987, 1.5486, 0.2009, 1.5413, 0.5954, 2.0432),
    *_row((2, 64, 64, 64, 64), (5, 5, 5), 2, 0.8190, 4.1252, 0.8256, 4.1476, 1.3614, 51.3257),
    *_row((2, 48, 48, 48, 48), (7, 7, 7), 1, 1.2039, 3.1206, 1.2086, 3.1256, 1.1905, 5.0582),
    *_row((1, 32, 32, 32, 64), (13, 13, 13), 1, 4.2366, 3.0693, 4.2683, 3.0719, 0.7134, 6.0794),
    *_row((8, 64, 64, 24), (5, 5), 1, 0.0455, 0.0715, 0.0375, 0.0426, 0.0461, 0.0452),
    *_row((8, 40, 40, 40), (3, 3), 1, 0.0351, 0.0597, 0.0471, 0.0734, 0.0367, 0.0799),
    *_row((8, 28, 28, 144), (5, 5), 1, 0.0455, 0.0487, 0.0476, 0.0515, 0.0615, 0.0572),
)
