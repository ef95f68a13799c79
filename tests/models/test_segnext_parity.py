"""SegNeXt equals an independent PyTorch definition: logits, gradients, running statistics; and wrong ports are noticed."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")

from jaxseg.bench.ports.segnext import Ich, Knobs, Official  # noqa: E402
from jaxseg.models import create_model  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

TINY = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), ratios=(2, 2, 2, 2))
HEADS = {"official": "decode_head.conv_seg", "ich": "cls_conv.1"}


def tiny(kind, knobs=None, **more):
    if kind == "official":
        return Official(**TINY, ham=32, width=32, bases=4, in_channels=3, classes=2, knobs=knobs, **more)
    return Ich(**TINY, ham=24, width=16, bases=8, in_channels=3, classes=2, knobs=knobs, **more)


def ours(kind, **more):
    name = "segnext_test" if kind == "official" else "segnext_test_ich"
    return create_model(name, in_channels=3, num_classes=2, ham_bases="buffer", **more)


@pytest.fixture(scope="module")
def image():
    return parity.images((2, 36, 52, 3))


@pytest.fixture(scope="module", params=["official", "ich"])
def pair(request, image):
    kind = request.param
    port = parity.redraw(tiny(kind), image, classifier=HEADS[kind])
    model = ours(kind)
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == kind and not report.initialised and not report.adapted
    assert len(report.loaded) + len(report.ignored) == len(port.state_dict())
    return kind, model, port


def test_tiny_logits_equal_the_port(pair, image):
    _, model, port = pair
    assert parity.relative_error(model, port, image) <= parity.TOLERANCE


WRONG = {
    "tanh GELU": dict(gelu="tanh"),
    "BatchNorm eps 1e-3": dict(bn_eps=1e-3),
    "align_corners of the logits": dict(align_corners="flip"),
    "align_corners of the features": dict(feature_corners=True),
    "padding of the 21-strips": dict(strip_shift=True),
    "concatenation order": dict(order=(3, 2, 1)),
    "strips read the other tensor": dict(strips_from="flip"),
    "shortcut in the attention": dict(shortcut="flip"),
    "one NMF step less": dict(nmf_steps=5),
    "GroupNorm and LayerNorm eps 1e-3": dict(end_eps=1e-3),
}


@pytest.mark.full
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pair, image, mistake):
    kind, model, port = pair
    if kind == "ich" and mistake.startswith("GroupNorm"):
        return  # the variant has neither
    official = kind == "official"
    flips = {"align_corners": official, "strips_from": "input" if official else "local", "shortcut": not official}
    values = {k: flips[k] if v == "flip" else v for k, v in WRONG[mistake].items()}
    wrong = tiny(kind, dataclasses.replace(Knobs(), **values))
    state = dict(port.state_dict())
    wrong.load_state_dict(state)
    assert parity.relative_error(model, wrong, image, least=0.01) > 10 * parity.TOLERANCE


def test_training_step_equals_the_port(pair, image):
    kind, _, port = pair
    step_port = tiny(kind, dropout=0.0)
    step_port.load_state_dict(port.state_dict())
    parity.assert_step_equal(ours(kind, dropout=0.0, drop_path=0.0), step_port, image)


@pytest.mark.full
@pytest.mark.parametrize("size", [(64, 96), (100, 132)])
@pytest.mark.parametrize("kind", ["official", "ich"])
def test_true_size_logits_equal_the_port(kind, size):
    dims, depths = (32, 64, 160, 256), (3, 3, 5, 2)
    image = parity.images((1, *size, 3 if kind == "official" else 1))
    if kind == "official":
        port = Official(dims, depths, ham=256, width=256, bases=16)
    else:
        port = Ich(dims, depths, ham=512, width=256, bases=64, cheese=True)
    parity.redraw(port, image, classifier=HEADS[kind])
    model = create_model("segnext_t", ham_bases="buffer") if kind == "official" else create_model("segnext_t_ich")
    report = from_torch.load(model, port.state_dict())
    assert sum("cheese" in k for k in report.ignored) == (6 if kind == "ich" else 0)
    assert all("cheese" in k or k.endswith("num_batches_tracked") for k in report.ignored)
    assert parity.relative_error(model, port, image) <= parity.TOLERANCE


def test_random_bases_of_inference_are_those_of_the_fixed_key(image):
    import jax

    from jaxseg.models.segnext.nmf import draw_bases

    model = create_model("segnext_test", in_channels=3, num_classes=2)
    fixed = create_model("segnext_test", in_channels=3, num_classes=2, ham_bases="buffer")
    arrays = from_torch.export(model) | {"decoder.ham.bases": np.asarray(draw_bases(jax.random.key(0), 1, 32, 4))}
    from_torch.load(fixed, arrays)
    logits = np.asarray(model(image[:1]))
    # two programs of the same sums, fused differently
    np.testing.assert_allclose(fixed(image[:1]), logits, atol=1e-5 * np.abs(logits).max())
