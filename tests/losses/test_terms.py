"""Laws that every loss term obeys, for one logit (sigmoid) and for four classes (softmax)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxseg.losses import TERMS
from jaxseg.losses.targets import log_sum_of_others
from jaxseg.types import ConfigError

RANDOM = np.random.default_rng(0)
SHAPE = (4, 6, 5)  # B, H, W; near_pixel looks 4 pixels far
LOGITS = {k: RANDOM.normal(0, 2, (*SHAPE, k)).astype(np.float32) for k in (1, 4)}
LABELS = {k: RANDOM.integers(0, max(k, 2), SHAPE) for k in (1, 4)}
WEIGHT = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
BATCH = {"bce_dice", "nnunet", "near_pixel"}  # mix the samples: halves of a batch do not add up to the whole
CASES = [(name, k) for name in TERMS for k in (1, 4) if (name, k) != ("cross_entropy", 1)]
every_term = pytest.mark.parametrize("name,k", CASES)


def mean_of(name, logits, labels, weight=None, **options):
    total, count = TERMS[name](jnp.asarray(logits), jnp.asarray(labels), weight=weight, **options)
    return total / count


@functools.cache
def jitted(name, k):
    """value and gradient of the mean, compiled once per term and number of classes."""
    return jax.jit(jax.value_and_grad(lambda z, y, w: mean_of(name, z, y, w)))


@functools.cache
def sums_of_two(name, k):
    """(sum, weight) of a batch of two samples, compiled once."""
    return jax.jit(lambda z, y: TERMS[name](z, y))


def value_and_grad(name, k, logits=None, labels=None, weight=None):
    weight = np.ones(SHAPE[0], np.float32) if weight is None else weight
    return jitted(name, k)(LOGITS[k] if logits is None else logits, LABELS[k] if labels is None else labels, weight)


def perfect(labels, k, size=20.0):
    truth = (labels > 0)[..., None] if k == 1 else labels[..., None] == np.arange(k)
    return np.where(truth, size, -size).astype(np.float32)


@every_term
def test_result_is_two_float32_scalars(name, k):
    for logits in (LOGITS[k], LOGITS[k].astype(jnp.bfloat16)):
        total, count = jax.eval_shape(TERMS[name], jax.ShapeDtypeStruct(logits.shape, logits.dtype), LABELS[k])
        assert total.shape == count.shape == () and total.dtype == count.dtype == jnp.float32


@every_term
def test_any_rank_is_taken(name, k):
    for shape in [(2, 6, 7, 5)] + ([(2, 9)] if name != "near_pixel" else []):
        total, _ = jax.eval_shape(TERMS[name], jax.ShapeDtypeStruct((*shape, k), jnp.float32), np.zeros(shape, int))
        assert total.shape == ()


@pytest.mark.parametrize("name,k", [c for c in CASES if c[0] != "near_pixel"])
def test_a_perfect_prediction_has_the_least_loss(name, k):
    best = value_and_grad(name, k, perfect(LABELS[k], k))[0]
    for logits in (LOGITS[k], perfect(LABELS[k][::-1], k), perfect(LABELS[k], k, 1.0), np.zeros_like(LOGITS[k])):
        assert best <= value_and_grad(name, k, logits)[0] + 1e-6
    if name != "boundary":  # whose minimum is negative
        assert abs(best) < 2e-3  # exp_log: (2e-9)^0.3; the others 1e-5


@every_term
def test_order_of_samples_does_not_matter(name, k):
    order = np.array([2, 0, 3, 1])
    value, grad = value_and_grad(name, k)
    moved, moved_grad = value_and_grad(name, k, LOGITS[k][order], LABELS[k][order])
    np.testing.assert_allclose(moved, value, rtol=1e-5)  # sums in another order
    np.testing.assert_allclose(moved_grad, grad[order], rtol=1e-4, atol=1e-7)


@every_term
def test_a_sample_of_weight_zero_is_as_if_removed(name, k):
    value, grad = value_and_grad(name, k, weight=WEIGHT)
    total, count = sums_of_two(name, k)(LOGITS[k][::2], LABELS[k][::2])
    np.testing.assert_allclose(value, total / count, rtol=1e-5)
    np.testing.assert_array_equal(grad[1::2], 0)


@pytest.mark.parametrize("name,k", [c for c in CASES if c[0] not in BATCH])
def test_sums_and_weights_of_two_batches_add_up(name, k):
    parts = [sums_of_two(name, k)(LOGITS[k][s], LABELS[k][s]) for s in (slice(0, 2), slice(2, 4))]
    total, count = (sum(values) for values in zip(*parts))
    np.testing.assert_allclose(total / count, value_and_grad(name, k)[0], rtol=1e-5)


@every_term
def test_jit_equals_eager(name, k):
    np.testing.assert_allclose(value_and_grad(name, k)[0], mean_of(name, LOGITS[k], LABELS[k]), rtol=1e-5)


@pytest.mark.parametrize("name,k", [c for c in CASES if c[1] > 1])
def test_names_of_foreground_classes_do_not_matter(name, k):
    order = np.array([0, 3, 1, 2])  # new class j was class order[j]; background stays
    value, grad = value_and_grad(name, k)
    moved, moved_grad = value_and_grad(name, k, LOGITS[k][..., order], np.argsort(order)[LABELS[k]])
    np.testing.assert_allclose(moved, value, rtol=1e-5)
    np.testing.assert_allclose(moved_grad, grad[..., order], rtol=1e-4, atol=1e-7)


@every_term
def test_value_and_gradient_are_finite_at_extremes(name, k):
    empty, full = np.zeros_like(LABELS[k]), np.ones_like(LABELS[k])
    for labels in (LABELS[k], empty, full):
        for logits in (LOGITS[k], 1e4 * np.sign(LOGITS[k]), perfect(labels, k, 1e4), -perfect(labels, k, 1e4)):
            value, grad = value_and_grad(name, k, logits, labels)
            assert np.isfinite(value) and np.isfinite(grad).all(), (labels[0, 0, 0], np.abs(logits).max())


@every_term
def test_gradients_have_the_dtype_of_the_logits(name, k):
    rounded = jax.ShapeDtypeStruct((*SHAPE, k), jnp.bfloat16)
    value, grad = jax.eval_shape(jax.value_and_grad(lambda z: mean_of(name, z, LABELS[k])), rounded)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["dice", "bce", "focal"])
def test_bfloat16_logits_are_computed_in_float32(name):
    rounded = jnp.asarray(LOGITS[4], jnp.bfloat16)
    np.testing.assert_allclose(
        mean_of(name, rounded, LABELS[4]), value_and_grad(name, 4, rounded.astype(np.float32))[0], rtol=1e-5
    )  # bfloat16 arithmetic would be off by 4e-3


@pytest.mark.parametrize("name", [n for n in TERMS if n not in ("cross_entropy", "near_pixel")])
def test_regions_of_one_channel_equal_one_logit_with_labels(name):
    value = mean_of(name, LOGITS[1], LABELS[1])
    np.testing.assert_allclose(mean_of(name, LOGITS[1], LABELS[1][..., None].astype(np.float32)), value, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["dice", "generalized_dice", "tversky", "lovasz", "focal", "hausdorff", "boundary", "exp_log", "bce_dice"]
)
def test_one_hot_labels_with_softmax_equal_integer_labels(name):
    one_hot = np.eye(4, dtype=np.float32)[LABELS[4]]
    np.testing.assert_allclose(mean_of(name, LOGITS[4], one_hot, activation="softmax"), value_and_grad(name, 4)[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["dice", "tversky", "generalized_dice"])
def test_batch_overlap_ignores_samples_of_weight_zero(name):
    value = mean_of(name, LOGITS[4], LABELS[4], jnp.asarray(WEIGHT), batch=True)
    np.testing.assert_allclose(value, mean_of(name, LOGITS[4][::2], LABELS[4][::2], batch=True), rtol=1e-5)
    assert abs(value - mean_of(name, LOGITS[4][::2], LABELS[4][::2])) > 1e-4  # and is not the per-sample loss


def test_wrong_arguments_name_the_rule():
    with pytest.raises(ValueError, match=r"must be \(4, 6, 5\)"):
        mean_of("dice", LOGITS[4], LABELS[4][:, :5])
    with pytest.raises(ValueError, match=r"\[4\]"):
        mean_of("dice", LOGITS[4], LABELS[4], jnp.ones(2))
    with pytest.raises(ConfigError, match="one output channel"):
        mean_of("cross_entropy", LOGITS[1], LABELS[1])
    for name, options, rule in [
        ("dice", {"activation": "relu"}, "softmax"),
        ("focal", {"form": "x"}, "true_class"),
        ("lovasz", {"classes": "some"}, "present"),
        ("boundary", {"variant": "x"}, "kervadec"),
        ("hausdorff", {"field": "x"}, "foreground"),
        ("exp_log", {"frequencies": (1.0,)}, "4 positive"),
        ("cross_entropy", {"class_weights": (1.0, 2.0)}, "each of the 4"),
        ("bce", {"positive_weight": -1.0}, "negative"),
        ("boundary", {"distance_maps": jnp.zeros((4, 6, 5, 1))}, "signed_distance"),
    ]:
        with pytest.raises(ValueError, match=rule):
            mean_of(name, LOGITS[4], LABELS[4], **options)


@pytest.mark.parametrize("classes", [3, 16, 17, pytest.param(300, marks=pytest.mark.full)])
def test_the_sum_of_the_other_classes_is_scipys_for_any_number_of_classes(classes):
    logits = RANDOM.normal(0, 20, (2, 3, classes))
    others = np.where(np.eye(classes, dtype=bool), -np.inf, logits[..., None, :])

    def summed(z):
        value = log_sum_of_others(z)
        return value.sum(), value

    (_, value), gradient = jax.jit(jax.value_and_grad(summed, has_aux=True))(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(value, special.logsumexp(others, -1), rtol=1e-5)
    np.testing.assert_allclose(gradient, special.softmax(others, -1).sum(-2), rtol=2e-5, atol=1e-5)
