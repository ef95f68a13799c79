"""EffiSegNet equals MONAI's encoder (live, nominal and other sizes) and an independent PyTorch definition of the decoder."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")
pytest.importorskip("monai", reason="parity needs the extra [parity]")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from flax import nnx  # noqa: E402

from jaxseg.bench.ports.effisegnet import EffiSegNet, Knobs, encoder  # noqa: E402
from jaxseg.models import create_model, effisegnet, functional  # noqa: E402
from jaxseg.ops.resize.api import nearest_index  # noqa: E402
from jaxseg.types import MismatchError  # noqa: E402
from jaxseg.weights import from_torch, state_dict  # noqa: E402
from tests.models.ports import parity  # noqa: E402

TINY = (0.25, 0.3)  # width and depth of effisegnet_test
SIDES = (64, 75)  # 75: taps of 38, 19, 10, 5 and 3, odd inputs to strides, ratios that are no integers


def tiny(side, **more):
    return EffiSegNet(*TINY, side, 8, **more)


def square(side, batch=2):
    return parity.images((batch, side, side, 3))


@pytest.fixture(scope="module", params=SIDES)
def pair(request):
    side = request.param
    port = parity.redraw(tiny(side), square(side), classifier="conv6")
    model = create_model("effisegnet_test")
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "official" and not report.initialised and not report.adapted
    assert all(k.endswith("num_batches_tracked") for k in report.ignored)
    assert len(report.loaded) + len(report.ignored) == len(port.state_dict())
    return side, model, port


def test_tiny_logits_equal_the_port(pair):
    side, model, port = pair
    assert parity.relative_error(model, port, square(side)) <= parity.TOLERANCE


WRONG = {
    "decoder eps 1e-3": dict(eps=1e-3),
    "encoder eps 1e-5": dict(encoder_eps=1e-5),
    "norm before ReLU": dict(norm_first=True),
    "bilinear": dict(upsampling="bilinear"),
    "nearest of pixel centres": dict(upsampling="nearest-exact"),
    "symmetric padding": dict(symmetric=True),
    "cheap half first": dict(cheap_first=True),
}


@pytest.mark.full
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pair, mistake):
    side, model, port = pair
    if (side, mistake) == (64, "nearest of pixel centres"):
        return  # at integer ratios the two rules agree
    wrong = tiny(side, knobs=dataclasses.replace(Knobs(), **WRONG[mistake]))
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(model, wrong, square(side), least=0.01) > 5 * parity.TOLERANCE


def test_training_step_with_deep_supervision_equals_the_port():
    port = parity.redraw(tiny(75, deep=True), square(75), classifier="conv6")
    model = create_model("effisegnet_test", deep_supervision=True, drop_connect=0.0)
    parity.assert_step_equal(model, port, square(75))


def test_nearest_upsampling_picks_pytorchs_voxels_at_every_nominal_size():
    # elsewhere PyTorch's float32 product rounds an exact integer down at single voxels, e.g. 4 -> 110
    for size in effisegnet.NOMINAL.values():
        side = size
        for _ in effisegnet.Encoder.strides:
            side = math.ceil(side / 2)
            theirs = F.interpolate(torch.arange(side).float()[None, None], size, mode="nearest")[0, 0]
            np.testing.assert_array_equal(nearest_index(side, size), theirs.long().numpy())


# ---------------------------------------------------------------- MONAI's encoder, true size


@pytest.fixture(scope="module")
def monai_b0():
    port = encoder(1.0, 1.0, effisegnet.NOMINAL["b0"])
    Features(port).redraw(square(96, 1))
    return port


class Features(torch.nn.Module):
    """So that `redraw` can be used: one tensor of all features."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def redraw(self, image):
        parity.redraw(self, image, classifier="none")

    def forward(self, image):
        return torch.cat([f.flatten(1) for f in self.net(image)], 1)


def features(model, image):
    network, params, state = functional.split(model)
    run = jax.jit(lambda p, s, x: network.merge(p, s).encoder(x)).lower(params, state, image)
    return run.compile(compiler_options={"xla_backend_optimization_level": 0})(params, state, image)  # runs once


# at multiples of 32 TensorFlow's padding is the nominal size's; the odd cases are those of SIDES
@pytest.mark.full
@pytest.mark.parametrize("size", [(224, 224), (64, 96)])
def test_true_size_features_equal_monai(monai_b0, size):
    model = create_model("effisegnet_b0")
    report = from_torch.load(model, monai_b0.state_dict(), only="encoder.")
    assert {k for k in report.ignored if "num_batches" not in k} == {"_fc.weight", "_fc.bias"}
    image = parity.images((1, *size, 3), seed=3)
    with torch.no_grad():
        theirs = monai_b0.eval()(parity.channels_first(image))
    ours = features(model, image)
    assert len(ours) == 5
    parity.assert_features_equal(ours, theirs)


def test_an_imagenet_checkpoint_gives_the_encoder_what_monais_does(monai_b0):
    by_monai, by_checkpoint = create_model("effisegnet_b0"), create_model("effisegnet_b0", seed=1)
    theirs = monai_b0.state_dict()
    flat = {re.sub(r"^_blocks\.\d+\.", "_blocks.", k): v for k, v in theirs.items()}  # blocks numbered through, as published
    assert "_blocks.15._project_conv.weight" in flat and len(flat) == len(theirs)
    from_torch.load(by_monai, theirs, only="encoder.")
    before = from_torch.export(by_checkpoint)
    report = from_torch.load(by_checkpoint, flat, only="encoder.")
    a, b = from_torch.export(by_monai), from_torch.export(by_checkpoint)
    for name in report.loaded:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    left = {n for n, _ in report.initialised}
    assert left and all(not n.startswith("encoder.") for n in left)
    assert all(np.array_equal(b[n], before[n]) for n in left)
    with pytest.raises(MismatchError, match="missing taps"):
        from_torch.load(by_checkpoint, flat)


@pytest.mark.parametrize("variant", ["b1", "b2", "b3", "b4", "b5", "b6", "b7"])
def test_block_numbers_and_shapes_of_every_variant_are_monais(variant):
    with torch.device("meta"):
        theirs = encoder(*effisegnet._SCALES[variant], effisegnet.NOMINAL[variant]).state_dict()
    model = create_model(f"effisegnet_{variant}", abstract=True)
    network, _, _ = functional.split(model)
    leaves = {n: l for n, l in zip(network.names, network.leaves) if n.startswith("encoder.")}
    names = state_dict.find(theirs, leaves, effisegnet.KEY_MAPPINGS).names
    assert set(names.values()) == set(leaves) and len(names) == len(leaves)
    for key, name in names.items():
        shape = theirs[key].shape
        assert math.prod(leaves[name].shape) == math.prod(shape) and leaves[name].shape[-1] in shape[:2]


def test_lite_blocks_have_relu6_and_no_squeeze():
    """EfficientNet-Lite0's file has 4,652,008 numbers, of which 1,281,000 are its classifier's."""
    encoder = functional.split(create_model("effisegnet_lite0", abstract=True).encoder)[1]
    assert sum(math.prod(p.shape) for p in encoder.values()) == 4_652_008 - 1_281_000
    block = effisegnet.MBConv(4, 4, 3, 1, 6, 0.0, squeeze=False, act="relu6", rngs=nnx.Rngs(0))
    image = 20 * square(8)[..., :1].repeat(4, -1)
    peer = torch.nn.Sequential(
        *(torch.nn.Conv2d(4, 24, 1, bias=False), torch.nn.BatchNorm2d(24, 1e-3), torch.nn.ReLU6()),
        *(torch.nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), torch.nn.BatchNorm2d(24, 1e-3), torch.nn.ReLU6()),
        *(torch.nn.Conv2d(24, 4, 1, bias=False), torch.nn.BatchNorm2d(4, 1e-3)),
    ).eval()
    names = ("expand_conv", "bn0", "", "depthwise_conv", "bn1", "", "project_conv", "bn2")
    for name, layer in zip(names, peer):
        if name.endswith("conv"):
            getattr(block, name).weight[...] = np.moveaxis(layer.weight.detach().numpy(), (0, 1), (-1, -2))
    with torch.no_grad():
        theirs = np.moveaxis(peer(parity.channels_first(image)).numpy(), 1, -1) + image
    np.testing.assert_allclose(block(image), theirs, atol=1e-5 * theirs.std())
