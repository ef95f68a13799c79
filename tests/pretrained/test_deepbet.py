"""deepbet's steps and network are those of its package: its network in PyTorch, and PyTorch's functions that it calls."""

import nibabel
import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from jaxseg import dispatch  # noqa: E402
from jaxseg.models import create_model  # noqa: E402
from jaxseg.pretrained import command_line, deepbet  # noqa: E402
from jaxseg.types import CheckpointError, ConfigError, DataError  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402


def conv(cin, cout, kernel, stride=1, *more, bias=False):
    return nn.Sequential(nn.Conv3d(cin, cout, kernel, stride, kernel // 2, bias=bias), nn.InstanceNorm3d(cout), *more)


def up_conv(cin, cout, stride, bias=False):
    layer = nn.ConvTranspose3d(cin, cout, 3, stride, 1, stride - 1, bias=bias)
    return nn.Sequential(layer, nn.InstanceNorm3d(cout), nn.ReLU())


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.double_conv = nn.Sequential(*conv(cin, cout, 3, stride, nn.ReLU()), *conv(cout, cout, 3))
        self.downsample = conv(cin, cout, 1, stride) if cin != cout else nn.Identity()

    def forward(self, x):
        return torch.relu(self.double_conv(x) + self.downsample(x))


class Level(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.block1, self.block2 = Block(cin, cout, stride), Block(cout, cout, 1)

    def forward(self, x):
        return self.block2(self.block1(x))


class Up(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = conv(cin, cin // 4, 1, 1, nn.ReLU())
        self.tp_conv, self.conv2 = up_conv(cin // 4, cin // 4, stride), conv(cin // 4, cout, 1, 1, nn.ReLU())

    def forward(self, x):
        return self.conv2(self.tp_conv(self.conv1(x)))


class LinkNet(nn.Module):
    """As the TorchScript files of deepbet 1.0.2 have it, but for their softmax."""

    def __init__(self, w):
        super().__init__()
        self.init = nn.Sequential(*conv(1, w, 7, 2, nn.ReLU()), nn.MaxPool3d(3, 2, 1))
        sizes = [(w, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 2)]
        self.down0, self.down1, self.down2, self.down3 = (Level(*s) for s in sizes)
        self.up0, self.up1, self.up2, self.up3 = (Up(b, a, s) for a, b, s in sizes[::-1])
        self.tp_conv1 = up_conv(w, w // 2, 2, bias=True)
        self.conv = conv(w // 2, w // 2, 3, 1, nn.ReLU(), bias=True)
        self.tp_conv2 = nn.ConvTranspose3d(w // 2, 2, 2, 2)

    def forward(self, x):
        x0 = self.init(x)
        x1 = self.down0(x0)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up0(self.down3(x3)) + x3
        x = self.up3(self.up2(self.up1(x) + x2) + x1) + x0
        return self.tp_conv2(self.conv(self.tp_conv1(x)))


@pytest.fixture(scope="module")
def network():
    """(LinkNet with redrawn weights, an image of its size)."""
    image = parity.images((1, 64, 64, 64, 1))
    return parity.redraw(LinkNet(4), image, classifier="tp_conv2"), image


@pytest.mark.usefixtures("unoptimised")
def test_linknet_equals_pytorchs(network):
    peer, image = network
    model = create_model("linknet3d_test")
    report = from_torch.load(model, peer.state_dict())
    assert report.key_mapping == "deepbet" and not report.initialised
    # 20 InstanceNorms, at the coarsest over 8 positions, amplify rounding
    assert parity.relative_error(model, peer, image) <= 1e-3


def head() -> np.ndarray:
    """A bright ball in a dim one."""
    grid = np.indices((30, 37, 26)) - np.array([16, 17, 14])[:, None, None, None]
    r = np.sqrt((grid**2).sum(0))
    noise = np.random.default_rng(0).normal(size=r.shape)
    return np.where(r < 8, 100, np.where(r < 12, 30, 0)) + ndimage.gaussian_filter(noise, 1) * 5.0


def test_grids_and_intensities_are_pytorchs():
    values = head().astype(np.float32)
    for shape in ((16, 16, 16), (41, 40, 52)):
        theirs = F.interpolate(torch.from_numpy(values)[None, None], shape, mode="nearest-exact")[0, 0].numpy()
        np.testing.assert_array_equal(deepbet.nearest(values, shape), theirs)
    tensor = torch.from_numpy(values)
    low, high = (float(tensor.quantile(q)) for q in (0.005, 0.995))
    cut = ((tensor - low) / (high - low)).clamp(0, 1)
    theirs = 0.226 * (cut - cut.mean()) / cut.std() + 0.449
    np.testing.assert_allclose(deepbet.normalised(values, low, high), theirs.numpy(), atol=1e-5)


def test_the_box_has_a_tenth_of_its_size_on_either_side():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 2:6, 16:20] = True
    # on a grid twice as fine: 10..30 grows by 2 and 2; 4..12 to 9.6 = 10 wide; 32..40 to 10 wide, cut at 40
    assert deepbet.head_box(mask, (40, 40, 40)) == (slice(8, 32), slice(3, 13), slice(31, 40))


def bright(share: float) -> deepbet.Network:
    """Instead of a trained network: bright voxels are brain."""
    return lambda volume: (volume > share * volume.max()).astype(np.float32)


def test_the_brain_is_the_largest_component_with_its_holes_filled():
    scan = head()
    scan[14:17, 16:18, 12:15] = 0  # a hole
    scan[1:4, 1:4, 1:4] = 100  # a smaller component
    mask = deepbet.brain(scan, {"bbox_model": bright(0.6), "model": bright(0.6)}, small=32, large=48)
    assert mask.shape == scan.shape and mask[15, 17, 13] and not mask[:5].any()
    filled = ndimage.binary_fill_holes(scan > 60) & (np.indices(scan.shape)[0] > 4)
    assert 2 * (mask & filled).sum() / (mask.sum() + filled.sum()) > 0.95
    with pytest.raises(DataError, match="contrast"):
        deepbet.brain(np.ones((8, 8, 8)), {}, small=8)
    with pytest.raises(DataError, match="no brain"):
        deepbet.brain(scan, {"bbox_model": lambda volume: np.zeros_like(volume)}, small=32)


def test_masks_lie_on_the_files_own_grid(tmp_path, monkeypatch, capsys):
    affine = np.diag([-1.0, 2.0, 1.5, 1.0])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(head().astype(np.float32), affine), tmp_path / "in" / "t1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), affine), tmp_path / "in" / "void.nii.gz")
    monkeypatch.setattr(command_line.pretrained, "find", lambda name, weights: {})
    monkeypatch.setattr(deepbet, "networks", lambda files: {"bbox_model": bright(0.6), "model": bright(0.6)})
    words = ["--pretrained=deepbet", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert command_line.main(words) == DataError.exit_code
    written = nibabel.load(tmp_path / "out" / "t1.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    mask = np.asarray(written.dataobj) > 0
    assert mask[16, 17, 14] and np.abs(np.argwhere(mask).mean(0) - (16, 17, 14)).max() < 1
    said = capsys.readouterr().out
    assert "FAILED void" in said and "1 of 2 written" in said and "MIT" in said


def test_weights_that_are_not_there_are_told_with_the_pip_line(tmp_path):
    words = ["jaxseg", "predict", "--pretrained=deepbet", f"--input={tmp_path}", f"--output={tmp_path}", f"--weights={tmp_path}"]
    with pytest.raises(CheckpointError, match="pip install --no-deps deepbet==1.0.2"):
        command_line.main(words[2:])
    with pytest.raises(SystemExit) as ended:
        dispatch.run(words)
    assert ended.value.code == CheckpointError.exit_code
    with pytest.raises(ConfigError, match=r"model.init=pretrained:efficientnet_lite0"):
        command_line.main(["--pretrained=efficientnet_lite0", *words[3:]])
