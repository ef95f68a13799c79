"""What the devices of a compiled program exchange."""

import math
import re
from typing import NamedTuple

_LINE = re.compile(
    r"= (\([^)]*\)|\S+) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)


class Collective(NamedTuple):
    """One exchange: its kind, how many numbers each device gets, whether it is repeated in a loop, where it comes from, and the
    bytes of the numbers.
    """

    kind: str
    numbers: int
    in_loop: bool
    origin: str
    bytes: int


def of(compiled) -> list[Collective]:
    """All exchanges of a compiled program (`jax.jit(f).lower(...).compile()`), in the order of its text."""
    found, entry = [], False
    for line in compiled.as_text().splitlines():
        if line and not line[0].isspace():
            entry = line.startswith("ENTRY")
        match = _LINE.search(line)
        if match:
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            numbers = [math.prod(map(int, filter(None, shape.split(",")))) for _, shape in shapes]
            size = sum(n * _bytes(kind) for n, (kind, _) in zip(numbers, shapes))
            origin = re.search(r'op_name="([^"]*)"', line)
            found.append(Collective(match[2], sum(numbers), not entry, origin[1] if origin else "", size))
    return found


def _bytes(kind: str) -> int:
    """Return the bytes of a number of one of XLA's types: f32, bf16, s8, pred."""
    bits = re.search(r"\d+$", kind)
    return max(1, int(bits[0]) // 8) if bits else 1
