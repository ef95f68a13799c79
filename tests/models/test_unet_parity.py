"""UNet-Base equals an independent PyTorch definition; wrong ports are noticed."""

import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")

from jaxseg.bench.ports.unet import UNetBase  # noqa: E402
from jaxseg.models import create_model  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

WIDTHS = (4, 8, 12, 16, 24)


@pytest.fixture(scope="module")
def image():
    return parity.images((2, 48, 64, 2))


@pytest.fixture(scope="module")
def port(image):
    return parity.redraw(UNetBase(WIDTHS, 2, 3), image, classifier="conv_out")


@pytest.fixture(scope="module")
def model(port):
    model = create_model("unet_base", in_channels=2, num_classes=3, widths=WIDTHS)
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "scoliosis" and len(report.loaded) + len(report.ignored) == len(port.state_dict())
    return model


def test_logits_equal_the_port(model, port, image):
    assert parity.relative_error(model, port, image) <= parity.TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("mistake", [{"eps": 1e-3}, {"skip_first": True}])
def test_a_wrong_port_is_noticed(model, port, image, mistake):
    wrong = UNetBase(WIDTHS, 2, 3, **mistake)
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(model, wrong, image, least=0.01) > 10 * parity.TOLERANCE


def test_training_step_equals_the_port(model, port, image):
    parity.assert_step_equal(create_model("unet_base", in_channels=2, num_classes=3, widths=WIDTHS), port, image)


def test_a_size_that_is_no_multiple_of_16_is_refused_with_one_that_would_do(model, image):
    with pytest.raises(ValueError, match=r"\(40, 64\).*divisible by 16.*\(48, 64\)"):
        model(image[:, :40])
