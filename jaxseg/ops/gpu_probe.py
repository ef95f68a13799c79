"""Properties of this process's GPU: its compute capability, and whether a kernel compiles on it.

A kernel that the driver, the version of jax or the card does not support must not stop a run: a small kernel of each class is
compiled before the class is used in a program. If this fails, one warning is printed and XLA's own operations are used.
"""

import contextlib
import contextvars
import functools
import warnings
from collections.abc import Callable, Hashable, Iterator

import jax

_COMPILES: dict[tuple[str, Hashable], bool] = {}
_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Within the block trace programs for any machine, without kernels that depend on this process's GPU."""
    before = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(before)


def capability() -> tuple[int, int] | None:
    """The CUDA compute capability of the first GPU, such as (9, 0); None without an NVIDIA GPU, and within `portable`."""
    return None if _PORTABLE.get() else _capability()


@functools.cache
def _capability() -> tuple[int, int] | None:
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:  # no GPU, or JAX_PLATFORMS excludes it
        return None
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else None  # AMD's are names, such as gfx942


def compiles(what: str, key: Hashable, *functions: Callable, arguments: tuple) -> bool:
    """Whether `functions` compile on this process's GPU; tested once for each (what, key).

    Args:
      what: the name of the kernels, for the warning.
      key: their class: all properties that affect compilation (taps, dilation, dtype, block of channels).
      functions: functions to compile for `arguments`.
      arguments: jax.ShapeDtypeStructs of small arrays.
    Returns:
      The result; True without a GPU, because the program is then lowered for another machine.
    """
    if capability() is None:
        return True
    known = _COMPILES.get((what, key))
    if known is None:
        try:
            for function in functions:
                jax.jit(function).lower(*arguments).compile()
            known = True
        except Exception as error:  # something that the driver, the card or this version of jax does not support
            warnings.warn(
                f"{what} {key}: does not compile on this GPU ({type(error).__name__}: {_first_line(error)}); "
                "XLA's own operations are used instead",
                RuntimeWarning,
                stacklevel=2,
            )
            known = False
        _COMPILES[what, key] = known
    return known


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
