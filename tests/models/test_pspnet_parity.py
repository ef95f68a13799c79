"""PSPNet equals an independent PyTorch definition with hszhao's names, both orders of bins, auxiliary output included."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")

from jaxseg.bench.ports.pspnet import Knobs, PSPNet  # noqa: E402
from jaxseg.models import create_model  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

TINY = dict(width=8, head=16, classes=2)
DEPTHS = (1, 2, 1, 2)
ORDERS = {"hszhao": (1, 2, 3, 6), "notebooks": (6, 3, 2, 1)}


def port_of(order, **more):
    return PSPNet(DEPTHS, bins=ORDERS[order], **TINY, **more)


def ours(order, **more):
    return create_model("pspnet_test", num_classes=2, depths=DEPTHS, bins=ORDERS[order], **more)


@pytest.fixture(scope="module")
def image():
    return parity.images((2, 90, 113, 3))  # 12 x 15 at stride 8: no bin divides both


@pytest.fixture(scope="module", params=ORDERS)
def pair(request, image):
    order = request.param
    port = parity.redraw(port_of(order), image, classifier="cls.4")
    model = ours(order)
    report = from_torch.load(model, {f"module.{k}": v for k, v in port.state_dict().items()})  # as published files have it
    assert report.key_mapping == "hszhao" and report.origin == "module."
    assert len(report.loaded) + len(report.ignored) == len(port.state_dict())
    return order, model, port


def test_tiny_logits_equal_the_port(pair, image):
    _, model, port = pair
    assert parity.relative_error(model, port, image) <= parity.TOLERANCE


WRONG = {
    "eps 1e-3": dict(eps=1e-3),
    "align_corners of the logits": dict(align_corners=False),
    "align_corners of the pooled maps": dict(pooled_corners=False),
    "stride on the first convolution": dict(stride_first=True),
    "no dilation in the last stage": dict(dilations=(1, 1, 2, 1)),
    "pooled maps first": dict(pooled_first=True),
    "unpadded pooling": dict(pool_padding=False),
    "the other order of bins": dict(bins="flip"),
}


@pytest.mark.full
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pair, image, mistake):
    order, model, port = pair
    values = {k: ORDERS[order][::-1] if v == "flip" else v for k, v in WRONG[mistake].items()}
    wrong = port_of(order, knobs=dataclasses.replace(Knobs(), **values))
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(model, wrong, image, least=0.01) > 5 * parity.TOLERANCE


def test_training_step_with_auxiliary_loss_equals_the_port_in_float64(image):
    image = image[:, :57, :74].astype(np.float64)
    # 50 BatchNorms over few pixels: in float32 gradients are up to 5.7 % off those in float64, PyTorch's and ours alike
    port = parity.redraw(port_of("notebooks", dropout=0.0).double(), image, classifier="cls.4")
    with parity.in_double():
        parity.assert_step_equal(ours("notebooks", dropout=0.0), port, image, tolerance=1e-8)


@pytest.mark.full
@pytest.mark.parametrize("size, order", [((57, 57), "hszhao"), ((64, 50), "notebooks")])
def test_true_size_logits_equal_the_port(size, order):
    port = PSPNet((3, 4, 6, 3), bins=ORDERS[order], classes=3)
    parity.redraw(port, parity.images((2, *size, 3), seed=1), classifier="cls.4")
    model = create_model("pspnet_r50", num_classes=3, bins=ORDERS[order])
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "hszhao" and not report.initialised
    assert parity.relative_error(model, port, parity.images((1, *size, 3))) <= parity.TOLERANCE
