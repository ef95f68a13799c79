"""Memory of a network by stage, from XLA's own plan of a compiled program: which of its buffers hold values of which stage.

A stage is a top-level layer of the network ("downs.0"). Its memory is the number of bytes in XLA's buffers that its operations
write; a byte that holds several values one after another counts once. Weights and the input are arguments and belong to no stage.
If XLA gives no plan, or one in another format, the memory is unknown.

Source of the formats: xla/service/hlo.proto (BufferAssignmentProto, HloModuleProto).
"""

import re
from collections.abc import Iterator
from typing import Any

from jaxseg.models.functional import Tap, layers_of

SCOPE = re.compile(r"layer:([\w.]+)")


def taps(module: Any) -> dict[str, Tap]:
    """Return taps that add each stage's name to its operations, for a forward pass to be measured."""
    names = list(layers_of(module))
    return {name: Tap() for name in names if not any(name.startswith(f"{other}.") for other in names)}


def memory(compiled: Any) -> dict[str, int]:
    """Return {stage: bytes} of a compiled program; {} if XLA gives no plan of its buffers."""
    try:
        plan = compiled.memory_analysis().serialized_buffer_assignment_proto
        module = compiled.runtime_executable().hlo_modules()[0].as_serialized_hlo_module_proto()
        return _by_stage(bytes(plan or b""), bytes(module))
    except (AttributeError, NotImplementedError, IndexError, ValueError, TypeError):
        return {}


def _by_stage(plan: bytes, module: bytes) -> dict[str, int]:
    stage_of: dict[int, str] = {}  # id of an instruction -> its stage
    for computation in _all(module, 3):
        for instruction in _all(computation, 2):
            names = [text.decode() for metadata in _all(instruction, 7) for text in _all(metadata, 2)]
            found = SCOPE.search(names[0]) if names else None
            if found:
                stage_of[_number(instruction, 35)] = found[1]
    defined = {}  # id of a value -> its stage
    for value in _all(plan, 1):
        instruction = _number(next(_all(value, 3)), 4)
        if instruction in stage_of:
            defined[_number(value, 1)] = stage_of[instruction]
    places: dict[str, list[tuple[int, int, int]]] = {}
    for allocation in _all(plan, 3):
        if _number(allocation, 5) or _number(allocation, 12):
            continue  # an argument or a constant
        index = _number(allocation, 1)
        for assigned in _all(allocation, 9):
            stage = defined.get(_number(assigned, 1))
            if stage:
                start = _number(assigned, 2)
                places.setdefault(stage, []).append((index, start, start + _number(assigned, 3)))
    return {stage: _covered(ranges) for stage, ranges in sorted(places.items())}


def _covered(ranges: list[tuple[int, int, int]]) -> int:
    """Return the number of bytes that ranges (buffer, start, end) cover; overlaps count once."""
    total, buffer, reached = 0, -1, 0
    for index, start, end in sorted(ranges):
        if index != buffer:
            buffer, reached = index, 0
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _all(message: bytes, number: int) -> Iterator[bytes]:
    """Return the fields with this number that hold bytes or messages."""
    return (value for field, value in _fields(message) if field == number and isinstance(value, bytes))


def _number(message: bytes, number: int) -> int:
    """Return the last field with this number that holds a whole number; 0 if there is none, the default of protocol buffers."""
    return next((value for field, value in reversed(list(_fields(message))) if field == number and isinstance(value, int)), 0)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message in the wire format of protocol buffers."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"got a field of wire type {kind}; must be 0, 1, 2 or 5")
        length = varint() if kind == 2 else 8 if kind == 1 else 4
        yield key >> 3, message[at : at + length]
        at += length
