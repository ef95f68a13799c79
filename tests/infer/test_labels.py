"""Labels of a volume's logits: one class by its probability, several by the largest."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxseg.infer.labels import background, entropy_of, labels_of, variance_of

LOGITS = np.random.default_rng(0).normal(0, 2, (4, 5, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_one_class_is_cut_at_the_same_probability_with_one_logit_and_with_two(threshold):
    two = LOGITS[..., :2]
    foreground = np.asarray(jax.nn.softmax(two, -1))[..., 1]
    np.testing.assert_array_equal(labels_of(two, threshold=threshold), foreground > threshold)
    one = two[..., 1:] - two[..., :1]
    np.testing.assert_array_equal(labels_of(two, threshold=threshold), labels_of(one, threshold=threshold))
    if threshold == 0.5:
        np.testing.assert_array_equal(labels_of(two), two.argmax(-1))


def test_several_classes_take_the_largest():
    np.testing.assert_array_equal(labels_of(LOGITS), LOGITS.argmax(-1))


def test_entropy_is_one_map_of_classes_and_one_for_each_region():
    softmax = scipy.special.softmax(LOGITS.astype(np.float64), -1)
    found = entropy_of(LOGITS)
    assert found.shape == (4, 5, 6, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], scipy.stats.entropy(softmax, base=2, axis=-1), atol=1e-5)
    p = scipy.special.expit(LOGITS.astype(np.float64))
    of_regions = entropy_of(LOGITS, regions=True)
    np.testing.assert_allclose(of_regions, scipy.stats.entropy(np.stack([p, 1 - p]), base=2), atol=1e-5)
    for regions in (False, True):  # not shown to the network: background for certain
        assert (entropy_of(np.full((2, 3), background(3, regions=regions), np.float32), regions=regions) == 0).all()


def test_variance_is_of_the_probabilities_over_the_members():
    members = [LOGITS, LOGITS[::-1] * 2, LOGITS + 1]
    p = np.stack([scipy.special.expit(m.astype(np.float64)) for m in members])
    np.testing.assert_allclose(variance_of(members, regions=True), p.var(0), atol=1e-6)
    p = np.stack([scipy.special.softmax(m.astype(np.float64), -1) for m in members])
    np.testing.assert_allclose(variance_of(members), p.var(0).mean(-1, keepdims=True), atol=1e-6)
    assert (variance_of([LOGITS, LOGITS]) == 0).all()
