"""Memory as the process gets it from the system, and as Python cleans it up."""

import contextlib
import gc
import os
import platform
import sys
from collections.abc import Iterator

TUNABLE = "glibc.malloc.hugetlb=1"


def start_with_huge_pages() -> None:
    """Start this Python again with glibc asking for huge pages; to be called before anything is imported or read.

    XLA takes the memory of a step anew in every call, by malloc; in pages of 4 KiB its faults and misses cost a CPU a third of
    the step (SegNeXt-T, 2 x 256 x 256, two cores: 446 ms without, 264 with). glibc (2.35) reads the setting when a process
    starts, hence the new start, under the same process number. Nothing happens outside Linux and glibc, where GLIBC_TUNABLES
    is set already, or with JAXSEG_HUGE_PAGES=0.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or os.environ.get("JAXSEG_HUGE_PAGES") == "0":
        return
    if not sys.executable or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection within the block.

    Tracing and lowering make millions of objects that stay; looking through them time and again took 2 of the 13 s before the
    first step of SegNeXt-T from the compilation cache.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
