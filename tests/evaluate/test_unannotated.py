"""Scores on the device and on the host count annotated voxels alone, whatever was predicted under the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.evaluate.scoring import Example, Rules, score
from jaxseg.evaluate.slices import SliceScorer
from jaxseg.infer import postprocess
from jaxseg.losses import compose
from jaxseg.metrics import regions
from jaxseg.models.base import Outputs
from jaxseg.train import mesh as meshes
from jaxseg.types import LEFT_OUT

REGIONS = (("whole", (1, 2)), ("core", (2,)))


class LogitsAreTheImage:
    def apply(self, params, state, image):
        return Outputs(image.astype(jnp.float32), ()), state


def drawn(shape):
    """Truth, where it is annotated, and a generator."""
    rng = np.random.default_rng(0)
    truth, there = rng.integers(0, 3, shape).astype(np.uint8), rng.random(shape) < 0.6
    return np.where(there, truth, np.uint8(LEFT_OUT)), there, rng


def test_slices_are_scored_where_they_are_annotated():
    truth, there, rng = drawn((2, 9, 7))
    scorer = SliceScorer(
        LogitsAreTheImage(),
        compose.build((("nnunet", 1.0),), left_out=True),
        thresholds=(0.5,),
        threshold=0.5,
        mesh=meshes.make(1),
        batch_size=2,
        dtype="float32",
        target=functools.partial(regions.region_targets, regions=REGIONS),
        order=regions.class_table(REGIONS),
        left_out=True,
    )
    logits = rng.normal(size=(*truth.shape, 2)).astype(np.float32)
    other = np.where(there[..., None], logits, rng.normal(size=logits.shape)).astype(np.float32)
    about = {"mask": truth, "index": np.arange(2), "weight": np.ones(2, np.float32)}
    found, same = (jax.device_get(scorer._score({}, {}, {"image": z, **about})[:3]) for z in (logits, other))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, same)) and np.isfinite(found[2])
    counts, matrix, _ = found
    assert matrix.sum() == there.sum() and (sum(counts[0])[:, 0] == there.sum((1, 2))).all()


def test_cases_are_scored_where_they_are_annotated():
    truth, there, rng = drawn((9, 8, 7))
    labels = rng.integers(0, 3, truth.shape).astype(np.uint8)
    other = np.where(there, labels, rng.integers(0, 3, truth.shape)).astype(np.uint8)
    rules, about = Rules(("a", "b"), REGIONS, surface=True), {"case": "x", "patient": "p", "row": 0}
    found, same = (score(["x"], lambda _, p=p: [Example(about, p, truth, (1.0, 1.0, 2.0))], rules) for p in (labels, other))
    assert str(found.rows) == str(same.rows) and found.confusion.sum() == there.sum()
    p, t = np.isin(labels[there], (1, 2)), np.isin(truth[there], (1, 2))
    np.testing.assert_allclose(found.rows[0]["dice"], 2 * (p & t).sum() / (p.sum() + t.sum()))
    assert found.rows[0]["tn"] == (~p & ~t).sum()
    wrong = np.where(there, truth, 1)  # only where nothing is known: no step can help
    assert postprocess.choose([wrong], [truth], num_classes=3, min_voxels=(3,)) == []
