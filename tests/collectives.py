"""What the devices of a compiled program exchange."""

import math
import re
from typing import NamedTuple

_LINE = re.compile(
    r"= (\([^)]*\)|\S+) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)


class Collective(NamedTuple):
    """One exchange: its kind, how many numbers each device gets, whether it is repeated in a loop, and where it comes from."""

    kind: str
    numbers: int
    in_loop: bool
    origin: str


def of(compiled) -> list[Collective]:
    """All exchanges of a compiled program (`jax.jit(f).lower(...).compile()`), in the order of its text."""
    found, entry = [], False
    for line in compiled.as_text().splitlines():
        if line and not line[0].isspace():
            entry = line.startswith("ENTRY")
        match = _LINE.search(line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            numbers = sum(math.prod(map(int, filter(None, s.split(",")))) for s in shapes)
            origin = re.search(r'op_name="([^"]*)"', line)
            found.append(Collective(match[2], numbers, not entry, origin[1] if origin else ""))
    return found
