"""Compile a large program in two parts at the same time, and call them one after the other.

XLA works on one thread through half of the compilation of a program for a CPU, and its loader's time grows with the square of a
program's size. In two parts the training step of segnext_t_ich (2 x 256 x 256, two cores) is compiled in 31 s instead of 38, and
read from disk in 3 s instead of 8. The cuts depend on the program alone, not on the machine, so that every start of a run
computes the same bits. What one part leaves to the next, the activations that the gradient needs, would be in memory without a
cut too.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.extend import core

PART = 20_000  # operations of a part, inner functions included
MOST = 2  # parts: each compiles again the kernels that it could share with others (four parts: 84 instead of 64 CPU-s)
EVEN = 0.4  # a cut may lie this share of a part before or after its even place, where fewest bytes are handed on


class Wiring(NamedTuple):
    """How the arrays of a program, numbered from its arguments on, go through a part.

    Attributes:
      takes: the numbers of its arguments.
      gives: the numbers of its results.
      done: the numbers that no later part and no result of the program needs.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    done: tuple[int, ...]


class Memory(NamedTuple):
    """XLA's estimate for a program in parts; `temp` holds what parts hand on."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int
    generated_code_size_in_bytes: int


class InParts(NamedTuple):
    """A program in parts.

    Attributes:
      parts: the programs, lowered or compiled.
      wiring: of each part.
      results: the numbers of the program's results.
      sizes: bytes of each numbered array.
      tree: structure of the results.
    """

    parts: tuple[Any, ...]
    wiring: tuple[Wiring, ...]
    results: tuple[int, ...]
    sizes: tuple[int, ...]
    tree: Any

    def compile(self) -> "InParts":
        """Compile all parts at once."""
        return self._replace(parts=_at_once(lambda part: part.compile(), self.parts))

    def __call__(self, *arguments):
        """Run the compiled parts."""
        arrays: dict[int, Any] = dict(enumerate(jax.tree.leaves(arguments)))
        for part, wiring in zip(self.parts, self.wiring):
            given = part(*[arrays[number] for number in wiring.takes])
            arrays |= zip(wiring.gives, given)
            for number in wiring.done:
                del arrays[number]
        return jax.tree.unflatten(self.tree, [arrays[number] for number in self.results])

    def memory_analysis(self) -> Memory | None:
        """XLA's estimate of memory; None if it has none."""
        of_parts = [part.memory_analysis() for part in self.parts]
        if None in of_parts:
            return None
        arguments = {n for wiring in self.wiring for n in wiring.takes} - {n for wiring in self.wiring for n in wiring.gives}
        held, temp = set[int](), 0
        for wiring, memory in zip(self.wiring, of_parts):
            held |= set(wiring.gives) - set(self.results)
            temp = max(temp, memory.temp_size_in_bytes + sum(self.sizes[n] for n in held))
            held -= set(wiring.done)
        return Memory(
            sum(self.sizes[n] for n in arguments),
            sum(self.sizes[n] for n in self.results),
            sum(memory.alias_size_in_bytes for memory in of_parts),
            temp,
            sum(memory.generated_code_size_in_bytes for memory in of_parts),
        )

    def as_text(self) -> str:
        """The optimised HLO of all parts."""
        return "\n".join(part.as_text() for part in self.parts)


def lower(traced, place: jax.sharding.Sharding) -> Any:
    """Lower a traced program: in parts if it is large and can be cut, else as a whole.

    Args:
      traced: the result of `jax.jit(...).trace(...)`.
      place: where all of its arrays are: on one device.
    """
    jaxpr, count = traced.jaxpr.jaxpr, itertools.count()
    cuts = [] if jaxpr.effects else _cuts(jaxpr)
    if not cuts:
        return traced.lower()
    donated = [leaf.donated for leaf in jax.tree.leaves(traced.args_info)]
    numbers = dict(zip(jaxpr.invars, count))
    last, again = _last_uses(jaxpr), _again(jaxpr)
    parts, wirings, bounds, sizes = [], [], [0, *cuts, len(jaxpr.eqns)], [_bytes(v) for v in jaxpr.invars]
    for begin, end in itertools.pairwise(bounds):
        equations, copies = jaxpr.eqns[begin:end], list(again.values()) if end == bounds[-1] else []
        made = {v: None for e in equations for v in e.outvars}  # in their order
        used = {v: None for v in (*itertools.chain(*(e.invars for e in equations)), *copies) if isinstance(v, core.Var)}
        own = [v for v in used if v in jaxpr.constvars]
        takes = [v for v in used if v not in made and v not in own]
        first = [v for v in made if last.get(v, -1) >= end]
        numbers |= zip(first, count)
        gives = [numbers[v] for v in first] + [next(count) for _ in copies]
        done = [numbers[v] for v in (*takes, *first) if last[v] < end]
        gone = [i for i, v in enumerate(takes) if numbers[v] in done and numbers[v] < len(donated) and donated[numbers[v]]]
        piece = _piece(traced.jaxpr, own, takes, [*first, *copies], equations)
        jitted = jax.jit(piece, in_shardings=place, out_shardings=place, donate_argnums=_usable(gone, takes, [*first, *copies]))
        parts.append(jitted.lower(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in takes)))
        wirings.append(Wiring(tuple(numbers[v] for v in takes), tuple(gives), tuple(done)))
        sizes += [_bytes(v) for v in (*first, *copies)]
    repeated = dict(zip(again, gives[len(gives) - len(again) :]))
    results = tuple(repeated.get(i, numbers[v]) for i, v in enumerate(jaxpr.outvars))
    return InParts(tuple(parts), tuple(wirings), results, tuple(sizes), jax.tree.structure(traced.out_info))


def has_constants(program: Any) -> bool:
    """Whether a compiled program holds arrays as constants that are arguments of its machine code."""
    compiled = program.parts if isinstance(program, InParts) else (program,)
    return any(getattr(getattr(part, "_params", None), "const_args", ()) for part in compiled)


def dump(program: Any) -> tuple:
    """What `load` reads a compiled program from."""
    if isinstance(program, InParts):
        return tuple(map(serialize_executable.serialize, program.parts)), program._replace(parts=())
    return (serialize_executable.serialize(program),), None


def load(dumped: tuple, devices: list[jax.Device]) -> Any:
    """The compiled program that was dumped; its parts are read at the same time."""
    bodies, plan = dumped
    parts = _at_once(lambda body: serialize_executable.deserialize_and_load(*body, execution_devices=devices), bodies)
    return plan._replace(parts=parts) if plan else parts[0]


def _at_once(function: Callable, items: Sequence) -> tuple:
    """The results of a function for all items, each on its own thread; in turn while the interpreter ends, which starts none."""
    with ThreadPoolExecutor(len(items)) as pool:
        try:
            found = [pool.submit(function, item) for item in items]
        except RuntimeError:
            return tuple(map(function, items))
        return tuple(each.result() for each in found)


def _cuts(jaxpr: core.Jaxpr) -> list[int]:
    """Where parts begin, except the first: numbers of equations. Empty if it is small, or has no even cut."""
    weights = np.cumsum([0, *map(_weight, jaxpr.eqns)])
    count = min(round(weights[-1] / PART), MOST)
    if count < 2 or not all(isinstance(v, core.Var) for v in jaxpr.outvars):
        return []
    handed = _handed_on(jaxpr)
    cuts = []
    for i in range(1, count):
        low, high = np.searchsorted(weights, np.array([i - EVEN, i + EVEN]) * weights[-1] / count)
        if low == high:  # one equation holds all of it, such as a loop over micro-batches
            return []
        cuts.append(int(low + np.argmin(handed[low:high])))
    return cuts


def _piece(whole: core.ClosedJaxpr, own: list, takes: list, gives: list, equations: list) -> Callable:
    """The function of some equations of a program."""
    names = whole.jaxpr.debug_info.with_unknown_names()
    jaxpr = whole.jaxpr.replace(constvars=own, invars=takes, outvars=gives, eqns=equations, debug_info=names)
    constants = dict(zip(whole.jaxpr.constvars, whole.consts))
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, [constants[v] for v in own]))


def _again(jaxpr: core.Jaxpr) -> dict[int, core.Var]:
    """The results, by position, that are arguments or results before: they need memory of their own, as one may be donated."""
    seen = set(jaxpr.invars)
    return {i: v for i, v in enumerate(jaxpr.outvars) if v in seen or seen.add(v)}


def _handed_on(jaxpr: core.Jaxpr) -> np.ndarray:
    """Bytes of the arrays made before each equation, and needed by it or later ones."""
    changes = np.zeros(len(jaxpr.eqns) + 2, np.int64)
    last = _last_uses(jaxpr)
    for i, equation in enumerate(jaxpr.eqns):
        for v in equation.outvars:
            if v in last:
                changes[i + 1] += _bytes(v)
                changes[last[v] + 1] -= _bytes(v)
    return np.cumsum(changes)


def _last_uses(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """The number of the last equation that takes each variable; of results, one more than that of all equations."""
    last = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.invars if isinstance(v, core.Var)}
    given = set(jaxpr.outvars) - set(jaxpr.invars)  # an argument that is a result too is copied by the last part
    return last | {v: len(jaxpr.eqns) - 1 for v in jaxpr.outvars} | {v: len(jaxpr.eqns) for v in given}


def _usable(gone: Sequence[int], takes: Sequence[core.Var], gives: Sequence[core.Var]) -> tuple[int, ...]:
    """The arguments whose memory a result of the same shape can take; others would be warned about."""
    room = Counter((v.aval.shape, v.aval.dtype) for v in gives)
    found = []
    for i in gone:
        kind = takes[i].aval.shape, takes[i].aval.dtype
        if room[kind]:
            room[kind] -= 1
            found.append(i)
    return tuple(found)


def _weight(equation: core.JaxprEqn) -> int:
    """The number of operations of an equation, those of its inner functions included."""
    return 1 + sum(_weight(inner) for jaxpr in core.jaxprs_in_params(equation.params) for inner in jaxpr.eqns)


def _bytes(variable: core.Var) -> int:
    size = getattr(variable.aval.dtype, "itemsize", 8)  # of keys: 8
    return int(np.prod(variable.aval.shape, dtype=np.int64)) * size
