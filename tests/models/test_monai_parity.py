"""UNETR and Swin UNETR equal MONAI's with its weights, in every order of merging."""

import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")
nets = pytest.importorskip("monai.networks.nets", reason="parity needs the extra [parity]")

from jaxseg.models import create_model  # noqa: E402
from jaxseg.models.swin_unetr.windows import relative_index, shift_regions  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

pytestmark = pytest.mark.usefixtures("unoptimised")


def check(model, peer, image):
    report = from_torch.load(model, peer.state_dict())
    assert report.key_mapping == "monai" and not report.initialised and not report.adapted
    return parity.relative_error(model, peer, image)


def test_unetr():
    image = parity.images((1, 32, 32, 48, 1))
    peer = nets.UNETR(1, 2, (32, 32, 48), feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2)
    peer = parity.redraw(peer, image, classifier="out.")
    model = create_model("unetr_test", image_size=(32, 32, 48), depth=12, taps=(4, 7, 10))
    assert check(model, peer, image) <= parity.TOLERANCE
    wrong = create_model("unetr_test", image_size=(32, 32, 48), depth=12, taps=(3, 6, 9))
    assert check(wrong, peer, image) > 100 * parity.TOLERANCE


@pytest.fixture(scope="module")
def swin():
    # at 64 voxels the stages have 32, 16, 8 and 4 positions an axis: padded, shifted, and a window clipped to 4
    image = parity.images((1, 64, 64, 64, 1))
    make = lambda **more: nets.SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, depths=(2, 1, 1, 1), num_heads=(2, 2, 2, 2), **more
    )
    return image, make, parity.redraw(make(), image, classifier="out.")


OPTIONS = dict(in_channels=1, num_classes=2, width=12, depths=(2, 1, 1, 1), heads=(2, 2, 2, 2), window=7)


def test_swin_unetr(swin):
    image, _, peer = swin
    assert check(create_model("swin_unetr_test", **OPTIONS), peer, image) <= parity.TOLERANCE


@pytest.mark.full
def test_swin_unetr_in_the_order_of_its_second_class(swin):
    image, make, peer = swin
    second = make(downsample="mergingv2")
    second.load_state_dict(peer.state_dict())
    assert check(create_model("swin_unetr_test", merging="mergingv2", **OPTIONS), second, image) <= parity.TOLERANCE
    assert check(create_model("swin_unetr_test", merging="legacy", **OPTIONS), second, image) > 100 * parity.TOLERANCE


def test_relative_index_has_the_measured_entries():
    index = relative_index(7, 3)
    assert [int(index[0, i]) for i in (0, 1, 7, 49, 342)] == [1098, 1097, 1085, 929, 0] and index[342, 0] == 2196


def test_shifted_windows_have_the_measured_pairs_of_neighbours():
    regions = shift_regions((14, 14, 14), (7, 7, 7), (3, 3, 3))
    assert regions.shape == (8, 343)
    pairs = (regions[:, :, None] == regions[:, None, :]).sum((1, 2))
    assert pairs.tolist() == [117649, 60025, 60025, 30625, 60025, 30625, 30625, 15625]
