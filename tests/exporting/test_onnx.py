"""Networks as ONNX files give in onnxruntime, a program that nobody here wrote, the logits that they give here."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

onnx = pytest.importorskip("onnx", reason="the extra [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs the files that are written")

from jaxseg import checkpoint  # noqa: E402
from jaxseg.exporting import contents, onnx_file, onnx_graph, program  # noqa: E402
from jaxseg.exporting.export import export  # noqa: E402
from jaxseg.exporting.onnx_operators import OPERATORS  # noqa: E402
from jaxseg.models import create_model, functional  # noqa: E402
from jaxseg.ops import spatial_max  # noqa: E402
from jaxseg.types import ConfigError, MismatchError  # noqa: E402
from tests import untrained  # noqa: E402

QUICK = {"unet_test": (2, (32, 48), 3), "nnunet_plain_test": (3, (16, 8, 16), 2)}
OTHERS = {
    "unet2d_test": (2, (32, 48), 2),
    "segformer_test": (2, (64, 96), 3),
    "segnext_test": (2, (64, 96), 3),
    "pspnet_test": (2, (64, 96), 3),
    "effisegnet_test": (2, (64, 96), 3),
    "unet3d_test": (3, (16, 16, 32), 2),
    "unetr_test": (3, (32, 32, 32), 1),
    "nnunet_resenc_test": (3, (16, 16, 16), 1),
    "mednext_test": (3, (32, 32, 32), 1),
    "dualbranch_18_shufflenet_v1_test": (3, (32, 32, 32), 2),
    "dualbranch_mobilenetv2_dilated_fixed_test": (3, (32, 32, 32), 2),
}
ONE_BY_ONE = ("segnext_test",)  # its random bases are drawn for each image


def run_onnx(binary: bytes, images: np.ndarray) -> np.ndarray:
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    session = onnxruntime.InferenceSession(binary, quiet, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def check_network(name: str, rank: int, size: tuple[int, ...], channels: int) -> None:
    random = np.random.default_rng(0)
    network, params, state = functional.split(create_model(name, in_channels=channels, num_classes=3, rank=rank))
    moved = lambda a: a + (np.abs(a).mean() + 0.05) * random.normal(size=a.shape).astype(np.float32)
    params = {key: moved(np.asarray(value)) for key, value in params.items()}
    inputs = program.Inputs(size, channels, "float32", (0.5,) * channels, (2.0,) * channels)
    weights = program.arrays_of(network, (params, state))
    binary, batch = onnx_file.encoded(network, inputs, weights, 3, {"network": name})
    assert batch == (1 if name in ONE_BY_ONE else None)
    images = random.normal(size=(batch or 2, *size, channels)).astype(np.float32)
    wanted = np.asarray(jax.jit(program.forward(network, inputs))(weights, images))
    assert wanted.std() > 1e-2
    assert np.abs(run_onnx(binary, images) - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("name", QUICK)
def test_onnxruntime_gives_a_networks_logits(name):
    check_network(name, *QUICK[name])


@pytest.mark.full
@pytest.mark.parametrize("name", OTHERS)
def test_onnxruntime_gives_the_logits_of_every_family_that_is_promised(name):
    check_network(name, *OTHERS[name])


def converted(function, *arrays: np.ndarray) -> tuple[bytes, list[str]]:
    """(an ONNX file of a function of one image, the operators in it)."""
    closed = jax.make_jaxpr(function)(*arrays)
    graph = onnx_graph.Graph("it")
    images = onnx_graph.Value("images", arrays[0].shape)
    (found,) = onnx_graph.walk(graph, closed.jaxpr, list(map(np.asarray, closed.consts)), [images], OPERATORS)
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.whole(found, closed.out_avals[0].shape)], ["logits"]))
    nodes, constants = graph.used("logits")
    tensor = lambda name, aval: onnx.helper.make_tensor_value_info(name, onnx_graph.type_of(aval.dtype), aval.shape)
    made = onnx.helper.make_graph(
        nodes, "it", [tensor("images", closed.in_avals[0])], [tensor("logits", closed.out_avals[0])], constants
    )
    opset = [onnx.helper.make_opsetid("", onnx_file.OPSET)]
    model = onnx.helper.make_model(made, ir_version=onnx_file.IR, opset_imports=opset)
    return model.SerializeToString(), [node.op_type for node in nodes]


def weights_of(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


KERNEL, FILTERS = weights_of(3, 2, 4, 5), weights_of(3, 3, 2, 4)
CONV = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
PAIRS = {"feature_group_count": 2}
PRIMITIVES = {
    "transposed": lambda x: lax.conv_general_dilated(x, KERNEL, (1, 1), ((1, 2), (1, 0)), lhs_dilation=(2, 3), **CONV),
    "transposed groups": lambda x: lax.conv_general_dilated(
        x, FILTERS, (1, 1), ((1, 3), (1, 0)), lhs_dilation=(2, 3), **CONV, **PAIRS
    ),
    "grouped": lambda x: lax.conv_general_dilated(x, FILTERS, (2, 1), ((1, 0), (2, 2)), None, (1, 2), **CONV, **PAIRS),
    "windows": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))),
    "products": lambda x: jnp.einsum("bhwc,bhvc->bwvh", x, x) * 2 + jnp.einsum("bhwc,dw->bcd", x, weights_of(6, 6)).sum(),
    "parts": lambda x: jnp.concatenate([jnp.pad(x[:, ::2, 1:5], ((0, 0), (0, 0), (1, 1), (0, 0))), x[:, :3, ::-1]], 1),
    "repeated": lambda x: jnp.concatenate([jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape), jnp.repeat(x, 1, 1)], -1),
    "choices": lambda x: jnp.where((x > 0.2) & ~(x != x), jnp.clip(x, -1, 0.5) ** 3, jnp.argmax(x, -1, keepdims=True)) / x.max(),
    "spread": lambda x: lax.pad(x, np.float32(0.5), ((0, 0, 0), (2, 1, 1), (-1, 0, 2), (0, 0, 0))),
    "taken": lambda x: jnp.take(x, np.array([2, 0, 0, 1]), axis=1),
    "taken along": lambda x: jnp.take_along_axis(x, jnp.argmax(x[:, :, :1], axis=1, keepdims=True), axis=1) + spatial_max(x),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_mean_the_same(name):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    binary, _ = converted(PRIMITIVES[name], x)
    np.testing.assert_allclose(run_onnx(binary, x), PRIMITIVES[name](x), rtol=2e-5, atol=2e-5)


def test_convolutions_of_every_rank_are_onnxs_own():
    for rank in (2, 3):
        x, w = np.ones((1, *(6,) * rank, 4), np.float32), weights_of(*(3,) * rank, 4, 5)
        spec = ("NDHWC", "DHWIO", "NDHWC") if rank == 3 else ("NHWC", "HWIO", "NHWC")
        _, operators = converted(
            lambda x, w=w, s=spec, r=rank: lax.conv_general_dilated(x, w, (1,) * r, "SAME", dimension_numbers=s), x
        )
        assert operators.count("Conv") == 1 and set(operators) == {"Conv", "Transpose", "Identity"}


def test_what_has_no_counterpart_is_refused_by_name():
    x = np.ones((1, 4, 4, 1), np.float32)
    for function, name in (
        (lambda x: jnp.sort(x, 1), "'sort'"),
        (lambda x: lax.fori_loop(0, 3, lambda i, a: a + x, x), "'scan'"),
    ):
        with pytest.raises(MismatchError, match=f"it: the primitive {name} is not supported by the export to ONNX; export"):
            converted(function, x)


def test_a_runs_file_says_how_images_are_prepared(tmp_path, monkeypatch):
    folder = untrained.make(tmp_path / "run", untrained.config(untrained.write(tmp_path / "set", 2), 2))
    settings = checkpoint.find_record(folder)["config"]["infer"]
    lines = []
    export(folder, tmp_path / "model.onnx", settings=settings, licence="CC0", say=lines.append)
    model = onnx.load(tmp_path / "model.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    about = contents.read(folder, settings, threshold=None, licence="CC0").about
    assert said["licence"] == "CC0" and {key: json.loads(said[key]) for key in ("preparation", "labels", "application")} == {
        key: about[key] for key in ("preparation", "labels", "application")
    }
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 16, 16, 1]
    assert "batches of any size" in lines[0]
    with pytest.raises(ConfigError, match="holds one network"):
        export(folder, tmp_path / "m.onnx", settings={**settings, "ensemble": (str(folder),)})
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match="pip install 'onnx'"):
        export(folder, tmp_path / "m.onnx", settings=settings)
