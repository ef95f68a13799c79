"""Convert a jaxpr to the nodes of an ONNX graph, equation by equation; `onnx_operators` converts each primitive.

Values that depend on neither image nor weights (random bases, masks) are computed while the graph is written. Arithmetic on
weights alone (a batch norm's scale) is left to the program that loads the file. A value keeps the shape in which it was written
as long as ONNX broadcasts it by itself; `Graph.whole` expands it for operators that need its true shape. Where a program depends
on the platform, the branch for unknown platforms is used: XLA's own operations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from jaxseg.types import MismatchError

FOLDED = 1 << 16  # numbers of a constant that may be larger than what it is made from
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11, "uint32": 12}
_INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that hold what an equation calls


class Value(NamedTuple):
    """A tensor of the graph: its name, and the shape in which it was written, which broadcasts to that of its variable."""

    name: str
    shape: tuple


class UnsupportedShape(Exception):
    """A shape with a symbolic batch size that ONNX cannot express."""


class Graph:
    """Nodes, constants, and the value of every variable of the jaxpr.

    Args:
      what: name of the network, for messages.
    """

    def __init__(self, what: str):
        from onnx import helper, numpy_helper

        self.what, self._helper, self._numpy = what, helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple, str] = {}  # constants by content

    def add(self, operator: str, inputs: Sequence[str], shape: Sequence, **attributes) -> Value:
        """Add a node with one output, and return the output's value."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, list(inputs), [name], **attributes))
        return Value(name, tuple(shape))

    def add_several(self, operator: str, inputs: Sequence[str], shapes: Sequence[Sequence], **attributes) -> list[Value]:
        """Add a node with several outputs, and return their values."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(len(shapes))]
        self.nodes.append(self._helper.make_node(operator, list(inputs), names, **attributes))
        return [Value(name, tuple(shape)) for name, shape in zip(names, shapes)]

    def constant(self, array: np.ndarray) -> Value:
        """Add an array, only once if it occurs several times, and return its value."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes() if array.nbytes <= FOLDED else id(array))
        if key not in self._known:
            name = self._known[key] = f"c{len(self.constants)}"
            self.constants[name] = self._numpy.from_array(array, name), array  # the array is kept: ids are used again otherwise
        return Value(self._known[key], array.shape)

    def array_of(self, value: "Value | np.ndarray") -> np.ndarray | None:
        """Return the numbers of a constant; None for computed values."""
        if isinstance(value, np.ndarray):
            return value
        return self.constants[value.name][1] if value.name in self.constants else None

    def used(self, output: str) -> tuple[list, list]:
        """Return the (nodes, constants) on which an output depends."""
        wanted, nodes = {output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                nodes.append(node)
        return nodes[::-1], [proto for name, (proto, _) in self.constants.items() if name in wanted]

    def ints(self, *numbers: int) -> str:
        """Add a vector of whole numbers, and return its name."""
        return self.constant(np.array(numbers, np.int64)).name

    def named(self, value: "Value | np.ndarray") -> Value:
        """Return a value as a tensor of the graph."""
        return self.constant(value) if isinstance(value, np.ndarray) else value

    def whole(self, value: "Value | np.ndarray", shape: Sequence) -> str:
        """Return the name of a value that was expanded to its variable's shape."""
        value = self.named(value)
        if value.shape == tuple(shape):
            return value.name
        target = [1 if here == there else there for here, there in zip(value.shape, shape)]
        if not all(isinstance(n, int) for n in target):
            raise UnsupportedShape(f"a value of shape {value.shape} repeated over {tuple(shape)}")
        return self.add("Expand", [value.name, self.ints(*target)], shape).name

    def reshaped(self, name: str, shape: Sequence, have: Sequence) -> Value:
        """Reshape a tensor; at most one of its sizes may be unknown."""
        if tuple(shape) == tuple(have):
            return Value(name, tuple(shape))
        sizes = [n if isinstance(n, int) else -1 for n in shape]
        if sizes.count(-1) > 1:
            raise UnsupportedShape(f"a reshape to {tuple(shape)}")
        return self.add("Reshape", [name, self.ints(*sizes)], shape)

    def refuse(self, what: str) -> MismatchError:
        """Return the error for an operation without a counterpart in ONNX."""
        return MismatchError(f"{self.what}: {what} is not supported by the export to ONNX; export the run as .jaxseg")


def type_of(dtype) -> int:
    """Return ONNX's number of a dtype."""
    return _TYPES[np.dtype(dtype).name]


Operators = dict[str, Callable[..., Any]]


def walk(graph: Graph, jaxpr: core.Jaxpr, constants: Sequence, inputs: Sequence, operators: Operators) -> list:
    """Convert a jaxpr, and return the values of its outputs.

    Args:
      graph: the graph to which the nodes are added.
      jaxpr: the program.
      constants, inputs: values (`Value` or numpy) of its constvars and invars.
      operators: primitive's name -> (graph, equation, values of its inputs) -> value, or list of values.
    Raises:
      MismatchError: there is no operator for a primitive.
    """
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs]))
    for equation in jaxpr.eqns:
        given = [np.asarray(v.val) if isinstance(v, core.Literal) else known[v] for v in equation.invars]
        known.update(zip(equation.outvars, _made(graph, equation, given, operators)))
    return [np.asarray(v.val) if isinstance(v, core.Literal) else known[v] for v in jaxpr.outvars]


def _made(graph: Graph, equation, given: list, operators: Operators) -> list:
    """Return the values of an equation's outputs."""
    name = equation.primitive.name
    if name == "platform_index":
        return [np.asarray(len(equation.params["platforms"]) - 1, np.int32)]  # the last one: any other platform
    if name == "cond":
        index, *rest = given
        if not isinstance(index, np.ndarray):
            raise graph.refuse("a branch that depends on the image (cond)")
        branch = equation.params["branches"][int(np.clip(index, 0, len(equation.params["branches"]) - 1))]
        return walk(graph, branch.jaxpr, branch.consts, rest, operators)
    inner = next((equation.params[key] for key in _INLINED if key in equation.params), None)
    if inner is not None and name not in ("scan", "while"):
        closed = hasattr(inner, "consts")
        return walk(
            graph, inner.jaxpr if closed else inner, [np.asarray(c) for c in inner.consts] if closed else (), given, operators
        )
    if all(isinstance(value, np.ndarray) or _is_key(value) for value in given) and _foldable(equation, given):
        found = equation.primitive.bind(*given, **equation.params)
        return [_plain(one) for one in (found if equation.primitive.multiple_results else [found])]
    if name not in operators:
        raise graph.refuse(f"the primitive {name!r}")
    found = operators[name](graph, equation, given)
    return found if isinstance(found, list) else [found]


def _is_key(value) -> bool:
    return isinstance(value, jax.Array)  # random keys are no numpy arrays


def _plain(value):
    return value if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key) else np.asarray(value)


def _foldable(equation, given: list) -> bool:
    """Return whether an equation of constants may be computed now: its results are not much larger than its inputs."""
    sizes = [v.aval.size for v in equation.outvars]
    most = max([FOLDED, *(getattr(value, "size", 1) for value in given)])
    return all(isinstance(size, int) for size in sizes) and sum(sizes) <= most
