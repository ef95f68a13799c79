"""A network as an ONNX file: images [batch, *size, channels] -> logits [batch, *size, K], float32.

The file's metadata describes the preparation, the classes and what follows the logits, as an exported model's model.json does; as
with any ONNX file, the program that uses it must do these steps. Needs the package `onnx` alone.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jaxseg.exporting import onnx_graph, program
from jaxseg.exporting.contents import Contents
from jaxseg.exporting.onnx_operators import OPERATORS
from jaxseg.models.functional import Network
from jaxseg.types import ConfigError, MismatchError
from jaxseg.utils.files import write_atomic

SUFFIX = ".onnx"
OPSET, IR = 18, 9
LARGEST = 2**31 - 2**20  # bytes of a protocol buffer


def write(path: Path, contents: Contents) -> list[str]:
    """Write the file, and return a report as text lines.

    Raises:
      ConfigError: onnx is not installed, or there are several sets of weights.
      MismatchError: the network has operations without a counterpart in ONNX.
      StorageError: the file cannot be written.
    """
    if len(contents.weights) > 1:
        raise ConfigError(
            f"config.infer.ensemble: an ONNX file holds one network, not {len(contents.weights)}; export them separately"
        )
    if stages := contents.record["config"]["data"].get("previous"):
        raise MismatchError(
            f"config.data.previous={', '.join(stages)}: an ONNX file holds one network, a cascade has two; export it as .jaxseg"
        )
    weights = program.arrays_of(contents.network, contents.weights[0])
    binary, batch = encoded(contents.network, contents.inputs, weights, contents.record["model"]["num_classes"], contents.about)
    write_atomic(path, binary)
    batches = "batches of any size" if batch is None else f"batches of {batch} alone"
    size = f"{len(binary) / 2**20:.1f} MiB, operator set {OPSET}, {batches}"
    return [f"written: {path} ({size}); how images are prepared stands in its metadata"]


def encoded(
    network: Network, inputs: program.Inputs, weights: list[np.ndarray], outputs: int, about: dict[str, Any]
) -> tuple[bytes, int | None]:
    """Return (the file's bytes, the only possible batch size or None); `outputs` is K of the logits, `about` the metadata."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("an .onnx file needs the package onnx: pip install 'onnx', or jaxseg with the extra onnx") from error
    size = sum(array.nbytes for array in weights)
    if size > LARGEST:
        raise MismatchError(f"{about['network']}: {size / 2**30:.1f} GiB of weights; an ONNX file holds 2: export it as .jaxseg")
    try:
        graph, name, batch = *_graph(network, inputs, weights, about["network"], export.symbolic_shape("batch")[0]), None
    except (onnx_graph.UnsupportedShape, jax.errors.InconclusiveDimensionOperation, TypeError, ValueError):
        graph, name, batch = *_graph(network, inputs, weights, about["network"], 1), 1
    helper = onnx.helper
    first = "batch" if batch is None else batch
    tensor = lambda name, dtype, last: helper.make_tensor_value_info(name, onnx_graph.type_of(dtype), [first, *inputs.size, last])
    graph.nodes.append(helper.make_node("Identity", [name], ["logits"]))
    nodes, constants = graph.used("logits")
    made = helper.make_graph(
        nodes,
        about["network"],
        [tensor("images", inputs.dtype, inputs.channels)],
        [tensor("logits", np.float32, outputs)],
        constants,
    )
    model = helper.make_model(made, producer_name="jaxseg", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)])
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True), batch


def _graph(network: Network, inputs: program.Inputs, weights: list[np.ndarray], what: str, batch) -> tuple[onnx_graph.Graph, str]:
    """Return (the graph, the name of the logits in it)."""
    run = jax.jit(program.forward(network, inputs))
    with program.portable():
        closed = run.trace(program.specs(network), inputs.spec(batch)).jaxpr
    graph = onnx_graph.Graph(what)
    images = onnx_graph.Value("images", (batch, *inputs.size, inputs.channels))
    constants = [np.asarray(value) for value in closed.consts]
    (logits,) = onnx_graph.walk(graph, closed.jaxpr, constants, [*map(graph.constant, weights), images], OPERATORS)
    return graph, graph.whole(logits, closed.out_avals[0].shape)
