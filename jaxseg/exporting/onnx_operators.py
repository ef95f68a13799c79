"""Convert each primitive of a network's forward pass to ONNX (operator set 18).

A function takes (graph, equation, values of its inputs) and returns a value, or a list of them. Convolutions and pooling are
ONNX's own, channels first, between transpositions.
"""

import string
from collections.abc import Callable, Sequence

import numpy as np

from jaxseg.exporting.onnx_graph import Graph, UnsupportedShape, Value, type_of


def _broadcast(*shapes: Sequence) -> tuple:
    """Return the shape of an operator's result for inputs of equal rank, or of shape ()."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if not (isinstance(n, int) and n == 1)), 1) for sizes in zip(*padded))


def _elementwise(operator: str) -> Callable:
    def made(graph: Graph, equation, given) -> Value:
        values = [graph.named(value) for value in given]
        return graph.add(operator, [v.name for v in values], _broadcast(*(v.shape for v in values)))

    return made


def _chain(*operators: str) -> Callable:
    """Apply operators one after another; all but the first have one input."""

    def made(graph: Graph, equation, given) -> Value:
        value = _elementwise(operators[0])(graph, equation, given)
        for operator in operators[1:]:
            value = graph.add(operator, [value.name], value.shape)
        return value

    return made


def _square(graph: Graph, equation, given) -> Value:
    (value,) = map(graph.named, given)
    return graph.add("Mul", [value.name, value.name], value.shape)


def _power(graph: Graph, equation, given) -> Value:
    (value,) = map(graph.named, given)
    exponent = graph.constant(np.array(equation.params["y"], np.dtype(equation.invars[0].aval.dtype)))
    return graph.add("Pow", [value.name, exponent.name], value.shape)


def _same(graph: Graph, equation, given) -> list:
    return list(given)


def _cast(graph: Graph, equation, given) -> Value:
    (value,) = map(graph.named, given)
    return graph.add("Cast", [value.name], value.shape, to=type_of(equation.params["new_dtype"]))


def _select(graph: Graph, equation, given) -> Value:
    if len(given) != 3 or equation.invars[0].aval.dtype != bool:
        raise graph.refuse("a choice among more than two arrays (select_n)")
    which, otherwise, there = map(graph.named, given)
    return graph.add("Where", [which.name, there.name, otherwise.name], _broadcast(which.shape, there.shape, otherwise.shape))


def _clamp(graph: Graph, equation, given) -> Value:
    low, value, high = map(graph.named, given)
    raised = graph.add("Max", [value.name, low.name], _broadcast(value.shape, low.shape))
    return graph.add("Min", [raised.name, high.name], _broadcast(raised.shape, high.shape))


def _broadcast_in_dim(graph: Graph, equation, given) -> Value:
    """Insert axes of length 1; ONNX's own broadcasting does the rest."""
    value, have = graph.named(given[0]), equation.invars[0].aval.shape
    shape = [1] * len(equation.params["shape"])
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        shape[target] = value.shape[axis] if len(value.shape) == len(have) else have[axis]
    return graph.reshaped(value.name, shape, value.shape)


def _reshape(graph: Graph, equation, given) -> Value:
    have = equation.invars[0].aval.shape
    return graph.reshaped(graph.whole(given[0], have), equation.outvars[0].aval.shape, have)


def _transpose(graph: Graph, equation, given) -> Value:
    value, order = graph.named(given[0]), equation.params["permutation"]
    return graph.add("Transpose", [value.name], [value.shape[a] for a in order], perm=list(order))


def _moved(graph: Graph, name: str, shape: Sequence, order: Sequence[int]) -> Value:
    if list(order) == list(range(len(order))):
        return Value(name, tuple(shape))
    return graph.add("Transpose", [name], [shape[a] for a in order], perm=list(order))


def _concatenate(graph: Graph, equation, given) -> Value:
    names = [graph.whole(value, v.aval.shape) for value, v in zip(given, equation.invars)]
    return graph.add("Concat", names, equation.outvars[0].aval.shape, axis=equation.params["dimension"])


def _split(graph: Graph, equation, given) -> list[Value]:
    name = graph.whole(given[0], equation.invars[0].aval.shape)
    sizes, shapes = graph.ints(*equation.params["sizes"]), [v.aval.shape for v in equation.outvars]
    return graph.add_several("Split", [name, sizes], shapes, axis=equation.params["axis"])


def _slice(graph: Graph, equation, given) -> Value:
    shape, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    params = equation.params
    steps = params["strides"] or (1,) * len(shape)
    cut = [a for a in range(len(shape)) if (params["start_indices"][a], params["limit_indices"][a], steps[a]) != (0, shape[a], 1)]
    name = graph.whole(given[0], shape)
    if not cut:
        return Value(name, tuple(out))
    columns = [[values[a] for a in cut] for values in (params["start_indices"], params["limit_indices"])]
    if not all(isinstance(n, int) for column in columns for n in column):
        raise UnsupportedShape("a part of a batch")
    return graph.add(
        "Slice", [name, *(graph.ints(*c) for c in columns), graph.ints(*cut), graph.ints(*(steps[a] for a in cut))], out
    )


def _rev(graph: Graph, equation, given) -> Value:
    shape, axes = equation.invars[0].aval.shape, equation.params["dimensions"]
    name = graph.whole(given[0], shape)
    ends = [graph.ints(*(number,) * len(axes)) for number in (-1, -(2**31), -1)]
    return graph.add("Slice", [name, ends[0], ends[1], graph.ints(*axes), ends[2]], shape)


def _squeeze(graph: Graph, equation, given) -> Value:
    have = equation.invars[0].aval.shape
    return graph.reshaped(graph.whole(given[0], have), equation.outvars[0].aval.shape, have)


def _tile(graph: Graph, equation, given) -> Value:
    name = graph.whole(given[0], equation.invars[0].aval.shape)
    return graph.add("Tile", [name, graph.ints(*equation.params["reps"])], equation.outvars[0].aval.shape)


def _pad(graph: Graph, equation, given) -> Value:
    low, high, inner = map(list, zip(*equation.params["padding_config"]))
    shape = list(equation.invars[0].aval.shape)
    name, value = graph.whole(given[0], shape), graph.named(given[1])
    spread = _spread(graph, name, shape, inner, value)
    high = [n - more for n, more in zip(high, inner)]  # `_spread` pads behind the last entries too
    return graph.add("Pad", [spread.name, graph.ints(*low, *high), value.name], equation.outvars[0].aval.shape)


def _spread(graph: Graph, name: str, shape: Sequence, inner: Sequence[int], value: Value) -> Value:
    """Insert `inner` padding values after every entry of each axis: each entry gets its own axis, which is padded and merged."""
    shape = list(shape)
    for axis, more in enumerate(inner):
        if more:
            column = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            ends = [0] * (2 * len(column))
            ends[len(column) + axis + 1] = more
            padded = [*shape[: axis + 1], 1 + more, *shape[axis + 1 :]]
            name = graph.reshaped(name, column, shape).name
            name = graph.add("Pad", [name, graph.ints(*ends), value.name], padded).name
            shape[axis] *= 1 + more
            name = graph.reshaped(name, shape, padded).name
    return Value(name, tuple(shape))


def _reduction(operator: str) -> Callable:
    def made(graph: Graph, equation, given) -> Value:
        name = graph.whole(given[0], equation.invars[0].aval.shape)
        axes = graph.ints(*equation.params["axes"])
        return graph.add(operator, [name, axes], equation.outvars[0].aval.shape, keepdims=0)

    return made


def _argmax(graph: Graph, equation, given) -> Value:
    (axis,) = equation.params["axes"]
    name, shape = graph.whole(given[0], equation.invars[0].aval.shape), equation.outvars[0].aval.shape
    found = graph.add("ArgMax", [name], shape, axis=axis, keepdims=0)
    return graph.add("Cast", [found.name], shape, to=type_of(equation.params["index_dtype"]))


def _dot(graph: Graph, equation, given) -> Value:
    """MatMul for a product with a matrix, else Einsum."""
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    a, b = (v.aval.shape for v in equation.invars)
    names, shape = [graph.whole(value, v.aval.shape) for value, v in zip(given, equation.invars)], equation.outvars[0].aval.shape
    if not left_batch and len(b) == 2 and len(right) == 1 and tuple(left) == (len(a) - 1,):
        matrix = _moved(graph, names[1], b, (right[0], 1 - right[0]))
        return graph.add("MatMul", [names[0], matrix.name], shape)
    letters = iter(string.ascii_lowercase)
    ours = [next(letters) for _ in a]
    theirs = [""] * len(b)
    for i, j in (*zip(left, right), *zip(left_batch, right_batch)):
        theirs[j] = ours[i]
    theirs = [letter or next(letters) for letter in theirs]
    kept = [ours[i] for i in left_batch]
    kept += [letter for i, letter in enumerate(ours) if i not in (*left, *left_batch)]
    kept += [letter for j, letter in enumerate(theirs) if j not in (*right, *right_batch)]
    return graph.add("Einsum", names, shape, equation=f"{''.join(ours)},{''.join(theirs)}->{''.join(kept)}")


def _conv(graph: Graph, equation, given) -> Value:
    """Conv, or ConvTranspose if the input is dilated."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    shape, w_shape = (v.aval.shape for v in equation.invars)
    name, weights = (graph.whole(value, v.aval.shape) for value, v in zip(given, equation.invars))
    out_shape, rank = equation.outvars[0].aval.shape, len(shape) - 2
    image = _moved(graph, name, shape, numbers.lhs_spec)  # [B, C, *S]
    kernel = graph.array_of(given[1])
    kernel = kernel.transpose(numbers.rhs_spec) if kernel is not None and kernel.shape == w_shape else None
    size = [w_shape[a] for a in numbers.rhs_spec[2:]]
    low, high = zip(*params["padding"])
    first = [out_shape[a] for a in numbers.out_spec]
    if params["batch_group_count"] != 1 or min(*low, *high) < 0:
        raise graph.refuse("a convolution with groups of the batch or negative padding")
    if any(d > 1 for d in params["lhs_dilation"]) and kernel is None:  # its filters are computed
        inner = [0, 0, *(d - 1 for d in params["lhs_dilation"])]
        zero = graph.constant(np.zeros((), np.dtype(equation.invars[0].aval.dtype)))
        image = _spread(graph, image.name, image.shape, inner, zero)
        ends = graph.ints(*(0,) * (2 + rank), *(-more for more in inner))
        image = graph.add("Pad", [image.name, ends, zero.name], [n - more for n, more in zip(image.shape, inner)])
    if any(d > 1 for d in params["lhs_dilation"]) and kernel is not None:
        pads = [k - 1 - p for ends in (low, high) for k, p in zip(size, ends)]
        more = [max(-p, 0) for p in pads[rank:]]  # zeros behind the last entries: ONNX's output padding
        pads = [*pads[:rank], *(max(p, 0) for p in pads[rank:])]
        fits = all(m < step for m, step in zip(more, params["lhs_dilation"]))
        if min(pads) < 0 or not fits or set(params["rhs_dilation"]) != {1}:
            raise graph.refuse("this transposed convolution")
        groups = params["feature_group_count"]
        turned = np.flip(kernel, range(2, 2 + rank))  # [O, C / groups, *k]
        turned = turned.reshape(groups, -1, *turned.shape[1:]).swapaxes(1, 2)  # [groups, C / groups, O / groups, *k]
        turned = turned.reshape(-1, *turned.shape[2:])  # [C, O / groups, *k]
        attributes = {"strides": list(params["lhs_dilation"]), "pads": pads, "kernel_shape": size, "group": groups}
        attributes["output_padding"] = more
        found = graph.add("ConvTranspose", [image.name, graph.constant(turned).name], first, **attributes)
    else:
        filters = _moved(graph, weights, w_shape, numbers.rhs_spec) if kernel is None else graph.constant(kernel)  # [O, C, *k]
        attributes = {"strides": list(params["window_strides"]), "dilations": list(params["rhs_dilation"])}
        attributes |= {"pads": [*low, *high], "group": params["feature_group_count"], "kernel_shape": size}
        found = graph.add("Conv", [image.name, filters.name], first, **attributes)
    return _moved(graph, found.name, first, [numbers.out_spec.index(a) for a in range(rank + 2)])


def _max_pool(graph: Graph, equation, given) -> Value:
    """MaxPool for windows over spatial axes only."""
    params, shape = equation.params, equation.invars[0].aval.shape
    rank, inner = len(shape) - 2, slice(1, -1)
    window, strides, pads = (tuple(params[key]) for key in ("window_dimensions", "window_strides", "padding"))
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if dilated or (window[0], window[-1], strides[0], strides[-1]) != (1,) * 4 or any(map(any, (pads[0], pads[-1]))):
        raise graph.refuse("a maximum over these windows (reduce_window_max)")
    to, back = (0, rank + 1, *range(1, rank + 1)), (0, *range(2, rank + 2), 1)
    image = _moved(graph, graph.whole(given[0], shape), shape, to)
    low, high = zip(*pads[inner])
    out = equation.outvars[0].aval.shape
    first = [out[a] for a in to]
    attributes = {"kernel_shape": list(window[inner]), "strides": list(strides[inner]), "pads": [*low, *high]}
    return _moved(graph, graph.add("MaxPool", [image.name], first, **attributes).name, first, back)


def _gather(graph: Graph, equation, given) -> Value:
    """Gather for entries along one axis: at constant indices (`jnp.take`), or at others in every row (`jnp.take_along_axis`).

    A part at a constant place, which is how jax cuts arrays of symbolic sizes, is a Slice.
    """
    numbers, sizes, shape = equation.params["dimension_numbers"], equation.params["slice_sizes"], equation.invars[0].aval.shape
    places = given[1]
    if isinstance(places, Value):
        return _gather_along(graph, equation, given)
    if places.ndim == 1 and not numbers.collapsed_slice_dims:
        axes = list(numbers.start_index_map)
        low = [int(np.clip(place, 0, shape[a] - sizes[a])) for place, a in zip(places, axes)]
        ends = graph.ints(*(start + sizes[a] for start, a in zip(low, axes)))
        return graph.add(
            "Slice", [graph.whole(given[0], shape), graph.ints(*low), ends, graph.ints(*axes)], equation.outvars[0].aval.shape
        )
    axes = [a for a in range(len(shape)) if a in numbers.collapsed_slice_dims]
    whole = all(size == n for a, (size, n) in enumerate(zip(sizes, shape)) if a not in axes)
    if len(axes) != 1 or not whole or numbers.operand_batching_dims:
        raise graph.refuse("this reading at places (gather)")
    (axis,), more, out = axes, places.ndim - 1, equation.outvars[0].aval.shape
    if tuple(numbers.offset_dims) != tuple(a for a in range(len(out)) if not axis <= a < axis + more):
        raise graph.refuse("this order of axes (gather)")
    indices = np.clip(places[..., 0], 0, shape[axis] - 1).astype(np.int64)
    return graph.add("Gather", [graph.whole(given[0], shape), graph.constant(indices).name], out, axis=axis)


def _gather_along(graph: Graph, equation, given) -> Value:
    """GatherElements; a place outside of the axis, where jax gives NaN, is an error there."""
    numbers, sizes, shape = equation.params["dimension_numbers"], equation.params["slice_sizes"], equation.invars[0].aval.shape
    rows, places, out = numbers.operand_batching_dims, equation.invars[1].aval.shape[:-1], equation.outvars[0].aval.shape
    whole = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *rows)]
    along = tuple(numbers.collapsed_slice_dims)
    axes = dict(zip(numbers.start_indices_batching_dims, rows))  # of the places -> of the array
    of_places = [axes.get(a, along[0] if along else -1) for a in range(len(places))]
    fits = len(along) == 1 and tuple(numbers.start_index_map) == along and len(set(of_places)) == len(of_places) == len(rows) + 1
    if (
        not fits
        or any(sizes[a] != shape[a] for a in whole)
        or list(numbers.offset_dims) != whole
        or sorted(of_places) != of_places
    ):
        raise graph.refuse("this reading at computed places (gather)")
    name, wide = graph.whole(given[1], equation.invars[1].aval.shape), [1] * len(shape)
    for axis, size in zip(of_places, places):
        wide[axis] = size
    indices = graph.whole(graph.reshaped(name, wide, (*places, 1)), out)
    return graph.add("GatherElements", [graph.whole(given[0], shape), indices], out, axis=along[0])


OPERATORS: dict[str, Callable] = {
    **{name: _elementwise(operator) for name, operator in (
        ("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"), ("max", "Max"), ("min", "Min"), ("pow", "Pow"),
        ("exp", "Exp"), ("log", "Log"), ("erf", "Erf"), ("tanh", "Tanh"), ("logistic", "Sigmoid"), ("sqrt", "Sqrt"),
        ("abs", "Abs"), ("neg", "Neg"), ("sign", "Sign"), ("floor", "Floor"), ("ceil", "Ceil"), ("not", "Not"),
        ("eq", "Equal"), ("ge", "GreaterOrEqual"), ("gt", "Greater"), ("le", "LessOrEqual"), ("lt", "Less"),
        ("and", "And"), ("or", "Or"),
    )},
    "ne": _chain("Equal", "Not"),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "square": _square,
    "integer_pow": _power,
    **dict.fromkeys(("stop_gradient", "copy", "copy_p", "optimization_barrier", "sharding_constraint"), _same),
    "convert_element_type": _cast,
    "select_n": _select,
    "clamp": _clamp,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand_dims": _squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "rev": _rev,
    "tile": _tile,
    "pad": _pad,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "argmax": _argmax,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_max": _max_pool,
    "gather": _gather,
}  # fmt: skip
