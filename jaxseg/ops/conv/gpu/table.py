"""Measurements behind choose.py: the rows of cpu/table.py on a GPU, float32 and bfloat16. None have been taken yet.

Until there are rows, the rule is the rooflines of one H200 (copy 4.3 TB/s, float32 33.5e12 multiply-adds a second):
| kernel | multiply-adds a number / what the copy's time allows (31) | bound by | XLA's path |
|---|---|---|---|
| strips of 7, 11, 21 | 0.2, 0.4, 0.7 | memory | grouped cuDNN convolution, gradient as slow as dense (jax-ml/jax#13800) |
| 3x3, 5x5, 7x7 | 0.3, 0.8, 1.6 | memory, 7x7 arithmetic | the same |
| 3^3, 5^3, 7^3 | 0.9, 4, 11 | arithmetic | the same, slower than dense where dilated (jax-ml/jax#26266) |
| 13^3 | 70 | arithmetic | not taken by the kernels |
So the kernels are chosen wherever they fit and the array has at least `SMALLEST` numbers: a smaller one takes less time than
its launch, and Triton's calls are not recorded into command buffers (jax-ml/jax#27988).

JAXSEG_CONV=xla takes XLA's own lowering everywhere on a GPU, JAXSEG_CONV=pallas the kernels wherever they fit.
A kernel whose rows here say that XLA is faster goes to XLA, each direction by itself.
"""

from jaxseg.ops.conv.cpu.table import Row

SMALLEST = 2**18  # numbers in the input, rule of thumb: 1 MB, 0.3 microseconds at the copy's speed, 5 for a launch
TABLE_GPU: tuple[Row, ...] = ()


def slower(kernel: tuple[int, ...], dilation: int, direction: str) -> bool:
    """The measured rows of this kernel and direction say that XLA is faster: sum of times over all sizes."""
    rows = [r for r in TABLE_GPU if (r.shape.kernel, r.shape.dilation, r.direction) == (kernel, dilation, direction)]
    return sum(r.ours for r in rows) > sum(r.xla for r in rows)
