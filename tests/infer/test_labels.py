"""Labels of a volume's logits: one class by its probability, several by the largest."""

import jax
import numpy as np
import pytest

from jaxseg.infer.labels import labels_of

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
