"""Memory that this process may still use: the machine's, or less within a container's limit. Pages that only cache files count as
free, because the system gives them back when they are needed."""

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CACHE = ("inactive_file", "active_file")  # entries of memory.stat: pages of files


def available() -> int:
    """Return the bytes of memory that are available: the least of the machine's and of all control groups' limits."""
    return max(min([_machine(), *_groups()]), 0)


def exhausted(error: Exception) -> bool:
    """Return whether an error says that the memory of a device or of this machine is full."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _machine() -> int:
    try:
        lines = MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):  # no Linux
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33


def _groups() -> Iterator[int]:
    """Yield the bytes that each control group above this process has left: version 2, or version 1's memory controller."""
    for folder, limit, used in _folders():
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            pages = sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in _CACHE)
            yield int((folder / limit).read_text()) - int((folder / used).read_text()) + pages
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue


def _folders() -> Iterator[tuple[Path, str, str]]:
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            root, names = GROUPS, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        place = root / path.strip("/")
        for folder in (place, *place.parents):  # within a container its own group is often mounted as the root
            if folder.is_relative_to(root):
                yield folder, *names
