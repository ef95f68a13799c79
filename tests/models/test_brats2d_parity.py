"""The BraTS 2-D networks equal independent definitions with Keras' rules; wrong ports are noticed.

Sizes are even by the networks' own rule (multiples of 8 or 16); the odd cases are odd multiples, 3 x 16 and 5 x 8, whose
deepest maps have odd sides.
"""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")

from jaxseg.bench.ports.brats2d import Conv, Knobs, ResUNetPlusPlus, UNet, UNet3Plus  # noqa: E402
from jaxseg.layers import residual  # noqa: E402
from jaxseg.models import create_model  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

W, NEAREST = (4, 6, 8, 10), ("nearest",) * 4
# network of the registry, its overrides, the port, the port's arguments, a size
CASES = {
    "plain": ("unet2d", {}, UNet, (W, 12), {}, (48, 32)),
    "no bridge": ("unet2d_nobridge", {}, UNet, (W, 0), {}, (32, 48)),
    "3 convolutions": ("unet2d_3conv", {}, UNet, (W, 12), dict(convs=3, norm="before"), (48, 32)),
    "dilated": ("unet2d_dilated", {}, UNet, (W, 12), dict(dilations=(2, 3, 4, 4), bridge_dilation=8, ups=NEAREST), (96, 80)),
    "dilated, no bridge": (
        "unet2d_dilated_nobridge",
        {},
        UNet,
        (W, 0),
        dict(dilations=(3,) * 4, ups=("conv", *NEAREST[1:])),
        (48, 80),
    ),
    "attention": ("attention_unet2d", dict(extra=(5, 5)), UNet, (W, 12), dict(norm="after", gate=True, extra=(5, 5)), (48, 80)),
    "3+": ("unet3p", {}, UNet3Plus, (W, 0, 4), {}, (40, 24)),
    "3+ with bridge": ("unet3p_bridge", {}, UNet3Plus, (W, 12, 4), {}, (48, 32)),
    "3+, 3 convolutions, dilated": ("unet3p_3conv", dict(dilation=3), UNet3Plus, (W, 0, 4), dict(convs=3, dilation=3), (40, 72)),
    "residual": ("resunetpp_test", {}, ResUNetPlusPlus, ((8, 8, 16, 16), 16), {}, (40, 72)),
}


def make(case, *, knobs=None, drop=0.0, bridge_drop=0.0):
    """(our network, the port)."""
    name, overrides, port, args, kwargs, _ = CASES[case]
    if port is UNet:
        overrides = {"widths": args[0], "bridge": args[1], "dropout": drop, "bridge_dropout": bridge_drop, **overrides}
        kwargs = {"drop": drop, "bridge_drop": bridge_drop, **kwargs}
    if port is UNet3Plus:
        overrides = {"widths": args[0], "bridge": args[1], "branch": args[2], "dropout": drop, **overrides}
        kwargs = {"drop": drop, **kwargs}
    model = create_model(name, in_channels=3, num_classes=2, **overrides)
    return model, port(*args, **kwargs, in_channels=3, classes=2, knobs=knobs)


def image_of(case, batch=2):
    return parity.images((batch, *CASES[case][-1], 3))


@pytest.fixture(scope="module")
def pairs():
    made = {}

    def pair(case):
        if case not in made:
            model, port = make(case)
            parity.redraw(port, image_of(case), classifier="head")
            report = from_torch.load(model, port.state_dict())
            assert report.key_mapping == "own" and not (report.initialised or report.adapted or report.ignored)
            made[case] = model, port
        return made[case]

    return pair


@pytest.mark.parametrize("case", CASES)
def test_tiny_logits_equal_the_port(pairs, case):
    model, port = pairs(case)
    assert parity.relative_error(model, port, image_of(case)) <= parity.TOLERANCE


WRONG = {
    "skip first": ("plain", dict(skip_first=True)),
    "norm after the ReLU": ("3 convolutions", dict(norm="after")),
    "norm before the ReLU": ("attention", dict(norm="before")),
    "eps 1e-5": ("attention", dict(eps=1e-5)),
    "no gate": ("attention", dict(ungated=True)),
    "no dilation": ("dilated", dict(dilate=False)),
    "bilinear": ("dilated", dict(up="bilinear")),
    "nearest": ("3+", dict(up="nearest")),
    "corners aligned": ("3+", dict(bilinear_corners=True)),
    "resized after the branch": ("3+ with bridge", dict(pool_after=True)),
    "order of the sources": ("3+", dict(order=(1, 0))),
    "PyTorch's padding at stride 2": ("residual", dict(symmetric=True)),
    "no squeeze and excitation": ("residual", dict(ungated=True)),
    "pyramid without dilation": ("residual", dict(dilate=False)),
    "ReLU in the pyramid": ("residual", dict(activated_pyramid=True)),
    "skip before the enlarged map": ("residual", dict(skip_first=True)),
}


@pytest.mark.full
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pairs, mistake):
    case, values = WRONG[mistake]
    model, port = pairs(case)
    wrong = make(case, knobs=dataclasses.replace(Knobs(), **values))[1]
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(model, wrong, image_of(case), least=0.01) > 5 * parity.TOLERANCE


@pytest.mark.parametrize("case", ["attention", "3+ with bridge", "residual"])
def test_training_step_equals_the_port(pairs, case):
    port = pairs(case)[1]
    parity.assert_step_equal(make(case)[0], port, image_of(case))


@pytest.mark.parametrize("case, rates", [("plain", (0.2, 0.5)), ("3+", (0.2, 0.0))])
def test_dropouts_stand_where_the_source_has_them(monkeypatch, case, rates):
    # both sides multiply by 1 + rate instead of dropping: the biases behind make the place visible
    monkeypatch.setattr(residual._Drop, "_drop", lambda self, x, run, shape: x * (1 + self.rate))
    model, port = make(case, drop=rates[0], bridge_drop=rates[1])
    parity.redraw(port, image_of(case), classifier="head")
    from_torch.load(model, port.state_dict())
    assert parity.relative_error(model, port, image_of(case)) <= parity.TOLERANCE
    plain = make(case)[1]
    plain.load_state_dict(port.state_dict())
    assert parity.relative_error(model, plain, image_of(case)) > 5 * parity.TOLERANCE


def test_the_ports_convolutions_pad_as_keras():
    import torch

    for size, stride, first in ((8, 2, 0), (7, 2, -1), (8, 1, -1)):  # even sizes at stride 2 pad nothing before, one after
        conv = Conv(1, 1, 3, stride)
        with torch.no_grad():
            conv.weight.fill_(1.0)
            conv.bias.zero_()
            ramp = torch.arange(1.0, size + 1)[None, None, None].expand(1, 1, size, size)
            row = conv(ramp)[0, 0, 2].numpy() / 3
        positions = first + stride * np.arange(-(-size // stride))
        np.testing.assert_allclose(row, [sum(p + 1 for p in range(q, q + 3) if 0 <= p < size) for q in positions])
