"""MobileUNETR: its encoder is transformers' MobileViT (live, true size), the whole equals a PyTorch definition (tiny)."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")
pytest.importorskip("transformers", reason="parity needs the extra [parity]")

import torch  # noqa: E402

from jaxseg.bench.ports.mobile_unetr import Knobs, MobileUNETR, mobilevit  # noqa: E402
from jaxseg.models import create_model, functional  # noqa: E402
from jaxseg.models.registry import variants  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

TINY = ((4, 8, 12, 16, 20, 24, 32), (8, 12, 16), 2, (1, 2, 1), 28, 16, 1)
SIZES = [(64, 96), (75, 100)]  # 75: maps of 38, 19, 10, 5, 3 and 2 rows: odd ones are resized for their patches, ups are cut


def tiny(**more):
    return create_model("mobile_unetr_test", num_classes=2, depths=(1, 2, 1), **more)


def quickly(model, call):
    """call(network, image) of a model, compiled once a shape and without optimisation: it runs a few times."""
    network, params, state = functional.split(model)
    compiled = {}

    def run(image):
        if image.shape not in compiled:
            lowered = jax.jit(lambda p, s, x: call(network.merge(p, s), x)).lower(params, state, image)
            compiled[image.shape] = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
        return compiled[image.shape](params, state, image)

    return run


@pytest.fixture(scope="module")
def pair():
    port = parity.redraw(MobileUNETR(*TINY, classes=2), parity.images((2, 75, 100, 3)), classifier="decoder.final")
    model = tiny()
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "official" and not report.initialised and not report.adapted
    assert all(k.endswith("num_batches_tracked") for k in report.ignored)
    return model, quickly(model, lambda network, x: network(x)), port


@pytest.mark.parametrize("size", SIZES)
def test_tiny_logits_equal_the_port(pair, size):
    _, logits, port = pair
    assert parity.relative_error(logits, port, parity.images((2, *size, 3))) <= parity.TOLERANCE


WRONG = {
    "eps 1e-3": dict(eps=1e-3),
    "bilinear half size": dict(mode="bilinear"),
    "bilinear logits": dict(logits_mode="bilinear"),
    "attention of all positions": dict(patch=1),
    "skips first": dict(skip_first=True),
    "input first": dict(input_first=True),
    "no scale": dict(unscaled=True),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pair, mistake):
    _, logits, port = pair
    wrong = MobileUNETR(*TINY, classes=2, knobs=dataclasses.replace(Knobs(), **WRONG[mistake]))
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(logits, wrong, parity.images((2, 75, 100, 3)), least=0.01) > 5 * parity.TOLERANCE


def test_exported_weights_are_the_ports(pair):
    model, _, port = pair
    theirs = {k: v.numpy() for k, v in port.state_dict().items() if not k.endswith("num_batches_tracked")}
    back = from_torch.export(model, names=theirs)
    assert back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


# ---------------------------------------------------------------- the encoder alone


def sizes_of(name):
    config = variants()[name].config
    return config.channels, config.widths, config.expand


class Features(torch.nn.Module):
    """So that `redraw` can be used: one tensor of all features."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def maps(self, image):
        return self.net(image, output_hidden_states=True).hidden_states

    def forward(self, image):
        return torch.cat([f.flatten(1) for f in self.maps(image)], 1)


@pytest.fixture(scope="module")
def live():
    port = Features(mobilevit(*sizes_of("mobile_unetr_xxs")))
    return parity.redraw(port, parity.images((1, 75, 100, 3)), classifier="none")


@pytest.mark.parametrize("size", [pytest.param(SIZES[0], marks=pytest.mark.full), SIZES[1]])  # by default the odd one
def test_true_size_features_equal_transformers(live, size):
    model = create_model("mobile_unetr_xxs")
    report = from_torch.load(model, live.net.state_dict(), only="encoder.")
    assert report.key_mapping == "transformers" and all(n.startswith("encoder.") for n in report.loaded)
    image = parity.images((1, *size, 3), seed=3)
    with torch.no_grad():
        theirs = live.maps(parity.channels_first(image))
    ours = quickly(model, lambda network, x: network.encoder(x))(image)
    assert len(ours) == 5
    parity.assert_features_equal(ours, theirs)


def test_a_classifiers_file_gives_the_encoder_and_leaves_the_rest():
    source = mobilevit(*TINY[:4])
    file = {f"mobilevit.{k}": v.numpy() for k, v in source.state_dict().items()}
    file |= {"classifier.weight": np.zeros((1000, 32), np.float32), "classifier.bias": np.zeros(1000, np.float32)}
    model = tiny()
    before = from_torch.export(model)
    report = from_torch.load(model, file, only="encoder.")
    assert {k for k in report.ignored if "num_batches" not in k} == {"classifier.weight", "classifier.bias"}
    after = from_torch.export(model)
    np.testing.assert_array_equal(after["encoder.stem.conv.weight"], file["mobilevit.conv_stem.convolution.weight"])
    np.testing.assert_array_equal(
        after["encoder.stages.4.layers.0.attn.qkv.weight"][16:32],
        file["mobilevit.encoder.layer.4.transformer.layer.0.attention.attention.key.weight"],
    )
    left = {n for n, _ in report.initialised}
    assert left == {n for n in before if not n.startswith("encoder.")}
    assert all(np.array_equal(after[n], before[n]) for n in left)


def test_two_modalities_take_a_trained_stem_shared_or_behind_an_adapter():
    weights = {k: v.numpy() for k, v in mobilevit(*TINY[:4]).state_dict().items()}
    stem = weights["conv_stem.convolution.weight"]
    shared = tiny(in_channels=2)
    report = from_torch.load(shared, weights, only="encoder.", adapt=True)
    assert report.adapted == (("encoder.stem.conv.weight", "sum of the file's 3 input channels, divided over 2"),)
    np.testing.assert_allclose(from_torch.export(shared)["encoder.stem.conv.weight"].sum(1), stem.sum(1), atol=1e-6)
    behind = tiny(in_channels=2, adapter=True)
    report = from_torch.load(behind, weights, only="encoder.")
    arrays = from_torch.export(behind)
    assert not report.adapted and arrays["adapter.weight"].shape == (3, 2, 1, 1)
    np.testing.assert_array_equal(arrays["encoder.stem.conv.weight"], stem)
