"""HD-BET's network is PyTorch's, and its mask lies where the scan is bright, on the scan's own grid."""

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="the network is compared with PyTorch: the extra [parity]")
F, nn = torch.nn.functional, torch.nn

from jaxseg.models import create_model  # noqa: E402
from jaxseg.pretrained import hdbet  # noqa: E402
from jaxseg.types import DataError  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402


def norm(channels):
    return nn.InstanceNorm3d(channels, affine=True)


class Peer(nn.Module):
    """The network written as its description says, with the names of HD-BET's files."""

    def __init__(self, w):
        super().__init__()
        self.init_conv, widths = nn.Conv3d(1, w, 3, padding=1), [w * 2**i for i in range(5)]
        for i, c in enumerate(widths):
            block = nn.Module()
            block.bn_1, block.bn_2, block.conv1, block.conv2 = norm(c), norm(c), *(nn.Conv3d(c, c, 3, 1, 1) for _ in range(2))
            setattr(self, f"context{i + 1}", block)
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            down = nn.Module()
            down.bn, down.downsample = norm(a), nn.Conv3d(a, b, 3, 2, 1)
            setattr(self, f"down{i + 1}", down)
        self.bn_after_context5 = norm(widths[-1])
        for i, (a, b) in enumerate(zip(widths[-2::-1], widths[:0:-1])):
            up = nn.Module()
            up.upsample_conv, up.bn = nn.Conv3d(b, a, 3, 1, 1), norm(a)
            setattr(self, f"up{i + 1}", up)
            if i < 3:
                loc = nn.Module()
                loc.conv1, loc.bn_1 = nn.Conv3d(2 * a, 2 * a, 3, 1, 1), norm(2 * a)
                loc.conv2, loc.bn_2 = nn.Conv3d(2 * a, a, 1), norm(a)
                setattr(self, f"loc{i + 1}", loc)
        for i in (1, 2):
            setattr(self, f"end_conv_{i}", nn.Conv3d(2 * w, 2 * w, 3, 1, 1))
            setattr(self, f"end_conv_{i}_bn", norm(2 * w))
        self.seg_layer = nn.Conv3d(2 * w, 2, 1, bias=False)

    def forward(self, x):
        act, skips, x = lambda y, slope=0.01: F.leaky_relu(y, slope), [], self.init_conv(x)
        for i in range(1, 6):
            block = getattr(self, f"context{i}")
            x = x + block.conv2(act(block.bn_2(block.conv1(act(block.bn_1(x))))))
            if i < 5:
                down = getattr(self, f"down{i}")
                skips.append(act(down.bn(x)))
                x = down.downsample(skips[-1])
        x = act(self.bn_after_context5(x))
        for i in range(1, 5):
            up = getattr(self, f"up{i}")
            larger = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
            x = torch.cat([skips.pop(), act(up.bn(up.upsample_conv(larger)))], 1)
            if i < 4:
                loc = getattr(self, f"loc{i}")
                x = act(loc.bn_2(loc.conv2(act(loc.bn_1(loc.conv1(x))))))
        for i in (1, 2):
            x = act(getattr(self, f"end_conv_{i}_bn")(getattr(self, f"end_conv_{i}")(x)), 0.1)
        return self.seg_layer(x)


@pytest.mark.usefixtures("unoptimised")
def test_the_network_equals_pytorchs():
    image = parity.images((1, 32, 32, 32, 1))
    peer = parity.redraw(Peer(2), image, classifier="seg_layer")
    model = create_model("hdbet_test")
    report = from_torch.load(model, peer.state_dict())
    assert report.key_mapping == "hdbet" and not report.initialised
    assert parity.relative_error(model, peer, image) <= 1e-3  # as of linknet3d: InstanceNorms over few positions amplify rounding


def test_the_mask_is_the_largest_component_on_the_scans_own_grid(monkeypatch):
    shape, spacing = (30, 41, 22), (1.0, 0.7, 2.0)
    distance = sum(((a - n / 2) * s) ** 2 for a, n, s in zip(np.indices(shape), shape, spacing)) ** 0.5
    scan = np.where(distance < 10, 100.0, 0.0) + ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1)
    scan[:2, :3, :2] = 100  # a smaller component
    seen = []

    def bright(image, nets):
        seen.append(image)
        return (image[0, ..., 0] > image.mean() + image.std()).astype(np.float32)

    monkeypatch.setattr(hdbet, "_probability", bright)
    mask = hdbet.brain(scan, spacing, None, least=32)
    assert seen[0].shape == (1, 32, 32, 32, 1)  # 44 x 28.7 x 30 mm of 1.5 mm, feet to head first
    assert mask.shape == shape and not mask[:3].any()
    truth = distance < 10
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.93
    with pytest.raises(DataError, match="contrast"):
        hdbet.brain(np.ones((8, 8, 8)), spacing, None)
