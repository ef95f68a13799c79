"""The loss of logits that take much memory is computed slab by slab, so that a file of logits is not read as a whole."""

import numpy as np
import pytest

from jaxseg.evaluate import scoring
from jaxseg.losses import compose

SHAPE = (7, 6, 5)


@pytest.fixture
def logits(tmp_path):
    random = np.random.default_rng(0)
    found = np.memmap(tmp_path / "logits", np.float32, "w+", shape=(1, *SHAPE, 3))
    found[...] = random.normal(size=found.shape)
    return found, random.integers(0, 3, (1, *SHAPE)).astype(np.uint8)


def mean_and_shapes(logits, masks) -> tuple[float, set]:
    shapes, loss = set(), compose.build((("cross_entropy", 1.0),))
    mean = scoring.MeanLoss(lambda out, batch: (shapes.add(out.logits.shape), loss(out, batch))[1])
    mean.add(logits, masks)
    assert mean._weight == pytest.approx(1)  # one example, in however many slabs
    return mean.mean(), shapes


def test_slabs_of_large_logits_have_the_mean_of_the_whole_by_voxels(monkeypatch, logits):
    whole, shapes = mean_and_shapes(*logits)
    assert shapes == {(1, *SHAPE, 3)}
    monkeypatch.setattr(scoring, "WHOLE", logits[0].nbytes - 1)
    monkeypatch.setattr(scoring, "SLAB", logits[0].nbytes // 3)
    slabs, shapes = mean_and_shapes(*logits)
    assert slabs == pytest.approx(whole, rel=1e-6) and shapes == {(1, n, *SHAPE[1:], 3) for n in (2, 3)}
    monkeypatch.setattr(scoring, "SLAB", 1)  # at least a plane
    assert mean_and_shapes(*logits)[0] == pytest.approx(whole, rel=1e-6)
