"""Composition of terms: sums, parts, auxiliary outputs, configuration errors, learnable weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import TERMS, boundary, compose
from jaxseg.types import ConfigError


class Outputs(NamedTuple):
    logits: jax.Array
    aux: tuple = ()


RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(3, 8, 8, 3)), jnp.float32)
AUX = (jnp.asarray(RANDOM.normal(size=(3, 4, 4, 3)), jnp.float32), jnp.asarray(RANDOM.normal(size=(3, 8, 8, 3)), jnp.float32))
MASK = RANDOM.integers(0, 3, (3, 8, 8))
BATCH = {"mask": MASK, "weight": jnp.array([1.0, 1.0, 0.0])}


def mean_of(name, logits, labels, **options):
    total, count = TERMS[name](logits, labels, weight=BATCH["weight"], **options)
    return total / count


def test_total_is_the_weighted_sum_of_means_and_parts_are_unweighted():
    loss = compose.build((("dice", 0.3), ("cross_entropy", 2.0)), {"cross_entropy": {"class_weights": (1.0, 2.0, 3.0)}})
    total, count, parts = loss(Outputs(LOGITS), BATCH)
    dice, cross = mean_of("dice", LOGITS, MASK), mean_of("cross_entropy", LOGITS, MASK, class_weights=(1.0, 2.0, 3.0))
    np.testing.assert_allclose(total / count, 0.3 * dice + 2.0 * cross, rtol=1e-6)
    assert count == 2 and set(parts) == {"dice", "cross_entropy"}
    np.testing.assert_allclose(parts["dice"][0] / parts["dice"][1], dice)


def test_auxiliary_outputs_see_labels_resized_by_nearest():
    loss = compose.build((("dice", 1.0),), aux_weights=(0.4, 0.0))
    total, count, parts = loss(Outputs(LOGITS, AUX), BATCH)
    assert set(parts) == {"dice", "aux0.dice"}
    expected = mean_of("dice", LOGITS, MASK) + 0.4 * mean_of("dice", AUX[0], MASK[:, ::2, ::2])
    np.testing.assert_allclose(total / count, expected, rtol=1e-6)


def test_auxiliary_outputs_may_have_terms_of_their_own():
    loss = compose.build((("dice", 1.0),), {"dice": {"batch": True}}, (0.0, 0.3), (("cross_entropy", 1.0),))
    total, count, parts = loss(Outputs(LOGITS, AUX), BATCH)
    assert set(parts) == {"dice", "aux1.cross_entropy"}
    expected = mean_of("dice", LOGITS, MASK, batch=True) + 0.3 * mean_of("cross_entropy", AUX[1], MASK)
    np.testing.assert_allclose(total / count, expected, rtol=1e-6)


def test_inference_without_auxiliary_outputs_has_the_main_part_alone():
    total, count, parts = compose.build((("dice", 1.0),), aux_weights=(0.4,))(Outputs(LOGITS), {"mask": MASK})
    assert set(parts) == {"dice"} and count == 3


def test_maps_of_the_batch_reach_the_terms_that_use_them():
    loss = compose.build((("boundary", 1.0), ("dice", 1.0)))
    maps = jnp.asarray(boundary.signed_distance(MASK, 3)) * 2
    _, _, parts = loss(Outputs(LOGITS), BATCH | {"distance_maps": maps})
    np.testing.assert_allclose(parts["boundary"][0] / 2, mean_of("boundary", LOGITS, MASK, distance_maps=maps), rtol=1e-6)


def test_regions_with_a_class_axis_are_resized_too():
    regions = jnp.asarray(np.eye(3, dtype=np.float32)[MASK])
    loss = compose.build((("dice", 1.0),), aux_weights=(1.0, 0.0))
    _, _, parts = loss(Outputs(LOGITS, AUX), {"mask": regions})
    np.testing.assert_allclose(parts["aux0.dice"][0], TERMS["dice"](AUX[0], regions[:, ::2, ::2])[0], rtol=1e-6)


def test_a_batch_of_padding_alone_has_loss_zero_and_no_nan():
    loss = compose.build((("dice", 1.0), ("cross_entropy", 1.0)))
    batch = {"mask": MASK, "weight": jnp.zeros(3)}
    value, grad = jax.value_and_grad(lambda z: loss(Outputs(z), batch)[0])(LOGITS)
    assert value == 0 and not np.asarray(grad).any()


def test_jitted_loss_equals_eager():
    loss = compose.build((("nnunet", 1.0),), aux_weights=(0.5, 0.25))
    eager, jitted = loss(Outputs(LOGITS, AUX), BATCH), jax.jit(loss)(Outputs(LOGITS, AUX), BATCH)
    np.testing.assert_allclose(jax.tree.leaves(eager), jax.tree.leaves(jitted), rtol=1e-5)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (((("dise", 1.0),),), "did you mean dice"),
        (((("dice", 1.0),), {"dice": {"smoth": 1.0}}), "no option 'smoth'; its options are background, squared, batch"),
        (((("dice", 1.0),), {"dice": 1}), "must be {.option"),
        (((("dice", 1.0),), {"dice": {"smooth_nr": "a"}}), "smooth_nr='a'.*default"),
        (((("dice", 1.0),), {"dice": {"squared": 1}}), "squared=1.*False"),
        ((((7, 1.0),),), "got 7 as loss term"),
        (((("boundary", 1.0),), {"boundary": {"distance_maps": None}}), "no option 'distance_maps'; its options are variant"),
        (((("dice", 1.0),), {"bce": {}}), "which this loss does not use"),
        (((("dice", 1.0), ("dice", 0.5)),), "twice"),
        (((),), "at least one"),
    ],
)
def test_configurations_that_cannot_work_name_the_remedy(arguments, message):
    with pytest.raises(ConfigError, match=message):
        compose.build(*arguments)


def test_auxiliary_weights_must_fit_the_network():
    with pytest.raises(ConfigError, match="2 auxiliary outputs"):
        compose.build((("dice", 1.0),), aux_weights=(0.4,))(Outputs(LOGITS, AUX), BATCH)


def test_learnable_weights_lie_between_one_and_three_and_get_gradients():
    parts = {"dice": (jnp.float32(2.0), jnp.float32(4.0)), "aux0.bce": (jnp.float32(3.0), jnp.float32(1.0))}
    weights = {"dice": jnp.float32(0.0), "aux0.bce": jnp.float32(100.0)}
    value, grad = jax.value_and_grad(lambda w: compose.learnable(parts, w))(weights)
    np.testing.assert_allclose(value, 2 * 0.5 + 3 * 3.0)
    np.testing.assert_allclose(grad["dice"], 2 * 0.25 * 0.5)
    with pytest.raises(ConfigError, match="every term"):
        compose.learnable(parts, {"dice": jnp.float32(0.0)})
