"""Sums over windows in 16 bits, beside what nnU-Net's predictor does in torch.half."""

import itertools
import types

import numpy as np
import pytest

from jaxseg.infer import network as networks
from jaxseg.infer import tiles, tta
from tests.infer.test_window import image


def in_torch(volume: np.ndarray, roi, mirror, sets) -> np.ndarray:
    """What nnU-Net's predictor does with `scaled` for each set of weights, in torch.half: [*S, K]."""
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    size, total = [max(n, w) for n, w in zip(volume.shape, roi)], None
    low = [(s - n) // 2 for s, n in zip(size, volume.shape)]
    padded = torch.zeros((2, *size))
    inside = tuple(slice(a, a + n) for a, n in zip(low, volume.shape))
    padded[(slice(None), *inside)] = torch.from_numpy(np.moveaxis(volume, -1, 0).copy())
    bell = torch.from_numpy(tiles.weights(roi, "gaussian_nnunet")).half()
    axes = [tuple(a + 1 for a in some) for n in range(len(mirror) + 1) for some in itertools.combinations(mirror, n)]
    for one in sets:
        logits, weight = torch.zeros((2, *size), dtype=torch.half), torch.zeros(size, dtype=torch.half)
        for start in tiles.grid(size, roi, (0.5,) * 3, "nnunet").tolist():
            place = tuple(slice(a, a + n) for a, n in zip(start, roi))
            cut = padded[(slice(None), *place)]
            found = [torch.flip(torch.from_numpy(one)[None] * torch.flip(cut, flipped), flipped) for flipped in axes]
            mean = found[0]
            for more in found[1:]:
                mean += more
            mean /= len(found)
            mean *= bell
            logits[(slice(None), *place)] += mean
            weight[place] += bell
        torch.div(logits, weight, out=logits)
        total = logits if total is None else total.add_(logits)
    if len(sets) > 1:
        total /= len(sets)
    return np.moveaxis(total[(slice(None), *inside)].numpy(), 0, -1)


@pytest.mark.parametrize("accumulator", ["device", "host", "memmap"])
def test_sums_of_16_bits_have_the_bits_of_nnunets_predictor(accumulator):
    volume = 9 * image(13, 5, 21, 2)
    roi, sets = (8, 8, 8), [image(8, 8, 8), image(9, 8, 8)[1:], np.float32(0.3) * image(8, 8, 8)]  # the second axis is padded
    for mirror, chosen in (((0, 1, 2), sets), ((), sets[:1])):
        averaged = lambda weights: tta.averaged(lambda scale, windows: windows * scale[..., None], weights)
        network = types.SimpleNamespace(num_classes=2, batch=4, mirror=mirror, averaged=averaged, kept=None)
        options = dict(overlap=0.5, blend="gaussian_nnunet", positions="nnunet", accumulator=accumulator)
        found = networks.Windows(network, roi, sums="float16", **options)([(one,) for one in chosen], volume[None])[0]
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, in_torch(volume, roi, mirror, chosen))
    network.mirrored = network.averaged
    exact = networks.Windows(network, roi, sums="float32", **options)([(one,) for one in chosen], volume[None])[0]
    assert exact.dtype == np.float32 and 1e-3 < np.abs(found - exact).max() < 1  # that rounding shows
