"""Voxels that nobody annotated: no loss, no gradient, no count, whatever lies under them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxseg.losses import TERMS, compose
from jaxseg.metrics import counts, summarize
from jaxseg.metrics.regions import region_targets
from jaxseg.models.base import Outputs
from jaxseg.types import LEFT_OUT, ConfigError

RNG = np.random.default_rng(3)
SHAPE = (2, 4, 6)
MASK = RNG.integers(0, 3, SHAPE)
MASK[RNG.random(SHAPE) < 0.4] = LEFT_OUT
THERE = MASK != LEFT_OUT
REFUSED = {"boundary", "hausdorff", "near_pixel"}
ONE = {"bce"}  # terms of sigmoids


@functools.cache
def program(name):
    loss = compose.build(((name, 1.0),), left_out=True)

    def mean(z, mask):
        total, weight, _ = loss(Outputs(z, ()), {"mask": mask})
        return total / weight

    return jax.jit(jax.value_and_grad(mean))


def value_and_gradient(name, logits, mask):
    return program(name)(jnp.asarray(logits), jnp.asarray(mask, jnp.int32))


@pytest.mark.parametrize("name", sorted(TERMS.keys() - REFUSED))
def test_what_lies_under_voxels_without_annotation_changes_nothing(name):
    """Not the value, not a bit of the gradient; and there the gradient is 0."""
    mask = np.where(THERE, np.minimum(MASK, 1), LEFT_OUT) if name in ONE else MASK
    logits = RNG.normal(size=(*SHAPE, 1 if name in ONE else 3)).astype(np.float32)
    value, gradient = value_and_gradient(name, logits, mask)
    other = np.where(THERE[..., None], logits, 1e4 * RNG.normal(size=logits.shape)).astype(np.float32)
    again, same = value_and_gradient(name, other, mask)
    assert value == again and np.array_equal(gradient, same) and np.isfinite(value)
    assert not np.asarray(gradient)[~THERE].any() and np.asarray(gradient)[THERE].any()
    nothing = value_and_gradient(name, logits, np.full_like(mask, LEFT_OUT))
    assert np.isfinite(nothing[0]) and not np.asarray(nothing[1]).any()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_terms_that_cannot_leave_voxels_out_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name}.*cannot leave out voxels.*data.ignore=background"):
        compose.build((("dice", 1.0), (name, 1.0)), left_out=True)


@pytest.mark.parametrize("regions", [False, True])
def test_nnunets_loss_is_that_of_the_annotated_voxels(regions):
    """The formulas of nnunetv2's compound_losses.py in numpy, on the annotated voxels alone."""
    logits = RNG.normal(size=(*SHAPE, 2 if regions else 3))
    if regions:
        mask = np.asarray(region_targets(MASK, (("whole", (1, 2)), ("core", (2,)))))
        assert (mask[~THERE] == LEFT_OUT).all()
        z, t = logits[THERE], mask[THERE]
        p = special.expit(z)
        cross = -(t * special.log_expit(z) + (1 - t) * special.log_expit(-z)).sum() / len(z)  # summed over the regions
    else:
        mask, z, t = MASK, logits[THERE], np.eye(3)[MASK[THERE]]
        p = special.softmax(z, -1)
        cross = -(t * special.log_softmax(z, -1)).sum() / len(z)
        p, t = p[:, 1:], t[:, 1:]
    dice = (2 * (p * t).sum(0) + 1e-5) / (p.sum(0) + t.sum(0) + 1e-5)
    value, _ = value_and_gradient("nnunet", logits.astype(np.float32), mask)
    np.testing.assert_allclose(value, 1 - dice.mean() + cross, rtol=1e-5)


def test_coarser_outputs_leave_out_the_nearest_voxels():
    loss = compose.build((("dice", 1.0),), aux_weights=(1.0,), left_out=True)
    logits, coarse = (RNG.normal(size=(2, h, w, 3)).astype(np.float32) for h, w in ((4, 6), (2, 3)))
    inside = lambda z: loss(Outputs(jnp.asarray(logits), (z,)), {"mask": MASK.astype(np.int32)})[0]
    gradient = np.asarray(jax.jit(jax.grad(inside))(jnp.asarray(coarse)))
    zero = ~gradient.any(-1)
    assert zero.any() and not zero.all()


@pytest.mark.parametrize(("xp", "classes"), [(np, 1), (np, 3), (jnp, 6)])
def test_counts_are_those_of_the_annotated_voxels(xp, classes):
    guess = RNG.integers(0, max(classes, 2), SHAPE)
    found = counts.count(xp.asarray(guess), xp.asarray(MASK), classes, left_out=True)
    for b in range(2):
        g, t = guess[b][THERE[b]], MASK[b][THERE[b]]
        for k in range(1, max(classes, 2)):
            p, y = (g > 0, t > 0) if classes == 1 else (g == k, t == k)
            right = [(p & y).sum(), (p & ~y).sum(), (~p & y).sum(), (~p & ~y).sum()]
            assert [int(c[b, k - 1]) for c in found] == right
    padded = counts.count(xp.asarray(guess), xp.asarray(MASK), classes, xp.asarray([1.0, 0.0]), left_out=True)
    assert all(np.array_equal(a[0], b[0]) and not np.asarray(a[1]).any() for a, b in zip(padded, found))
    matrix = counts.confusion(xp.asarray(guess), xp.asarray(MASK), 6)
    assert int(matrix.sum()) == THERE.sum()
    p = RNG.random(SHAPE).astype(np.float32)
    swept = summarize.sweep(xp.asarray(p), xp.asarray(MASK), (0.5,), left_out=True)
    for b in range(2):
        hit, y = p[b][THERE[b]] >= 0.5, MASK[b][THERE[b]] > 0
        assert [int(c[0, b]) for c in swept] == [(hit & y).sum(), (hit & ~y).sum(), (~hit & y).sum(), (~hit & ~y).sum()]
