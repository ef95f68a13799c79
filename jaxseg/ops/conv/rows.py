"""Convolutions of images whose rows several devices share (`ops.space`): XLA's own operations on each device's rows."""

from collections.abc import Callable, Sequence

from jaxseg.ops import plain, space
from jaxseg.types import Array


def conv(run: Callable, x: Array, w: Array, *, stride, padding, dilation: Sequence[int], groups: int) -> Array:
    """`run(x, w, stride=, padding=, dilation=, groups=)` of `dispatch.conv`; dw is summed over the devices once."""
    reach = space.halo(x.shape[1], w.shape[0], stride[0], dilation=dilation[0], padding=padding[0])

    def local(first: tuple[int, int]) -> Callable[[Array, Array], Array]:
        def here(x: Array, w: Array) -> Array:
            with plain.plain_lowerings():
                return run(x, w, stride=stride, padding=(first, *padding[1:]), dilation=dilation, groups=groups)

        return here

    if reach is None:
        return space.whole(local(padding[0]), x, w)
    return space.over_rows(local((0, 0)), x, w, reach=reach)


def conv_transpose(run: Callable, x: Array, w: Array, *, stride, padding, groups: int) -> Array:
    """`run(x, w, stride=, padding=, groups=)` of `api.conv_transpose`.

    Row o = s i + t - low of the result comes from row i of x and tap t. A device has s rows of it for each of its rows of x, so
    that it needs (k - 1 - low) // s rows before them and (low - 1) // s + 1 after them.
    """
    (low, high), k, s, n = padding[0], w.shape[0], stride[0], x.shape[1]
    reach = space.Halo(max((k - 1 - low) // s, 0), max((low - 1) // s + 1, 0))

    def local(first: tuple[int, int]) -> Callable[[Array, Array], Array]:
        def here(x: Array, w: Array) -> Array:
            with plain.plain_lowerings():
                return run(x, w, stride=stride, padding=(first, *padding[1:]), groups=groups)

        return here

    same_rows = space.divides(n) and low >= 0 and k - low - high == s
    if not same_rows or max(reach) > n // space.count():
        return space.whole(local(padding[0]), x, w)
    return space.over_rows(local((low + s * reach.before, (reach.after - 1) * s + k - low)), x, w, reach=reach)
