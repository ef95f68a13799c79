"""Every term on numbers worked by hand, and the options that projects rely on."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.losses import TERMS, boundary

LN2, LN4_3 = math.log(2), math.log(4 / 3)
ONE = jnp.array([[[0.0], [math.log(3)]]])  # [1, 2, 1]: p = 1/2, 3/4
TWO = jnp.array([[[0.0, 0.0], [0.0, math.log(3)]]])  # the same by softmax
LABELS = jnp.array([[0, 1]])
BCE, DICE = (LN2 + LN4_3) / 2, 1 / 3

HAND = [
    ("dice", ONE, {}, DICE),
    ("dice", ONE, {"squared": True}, 1 - 1.5 / (0.25 + 0.5625 + 1)),
    ("dice", TWO, {}, 1 - (2 * 0.5 / 1.75 + 2 * 0.75 / 2.25) / 2),
    ("dice", TWO, {"background": False}, DICE),
    ("generalized_dice", ONE, {}, DICE),
    ("tversky", ONE, {"alpha": 0.3, "beta": 0.7}, 1 - 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)),
    ("lovasz", ONE, {}, 0.5),  # hinge errors 1 (background) and 0: J = 1 - 1/2 after the first
    ("lovasz", TWO, {}, (0.375 + 0.5) / 2),  # e = 1/2, 1/4: foreground e (1/2, 1/2), background e (1, 0)
    ("bce", ONE, {}, BCE),
    ("bce", ONE, {"positive_weight": 3.0}, (LN2 + 3 * LN4_3) / 2),
    ("bce", jnp.array([[[0.0], [-9.0]]]), {"positive_weight": 3.0, "log_floor": -5.0}, (LN2 + 3 * 5) / 2),
    ("cross_entropy", TWO, {}, BCE),
    ("cross_entropy", TWO, {"class_weights": (1.0, 3.0)}, (LN2 + 3 * LN4_3) / 4),
    ("focal", ONE, {}, (LN2 / 4 + LN4_3 / 16) / 2),
    ("focal", ONE, {"gamma": 0.0, "alpha": 0.25}, (0.75 * LN2 + 0.25 * LN4_3) / 2),
    ("focal", TWO, {}, (LN2 / 4 + LN4_3 / 16) / 4),
    ("focal", TWO, {"form": "elements", "channels": "sum", "alpha": 0.5}, (LN2 / 4 + LN4_3 / 16) / 2),
    ("squared_error", ONE, {}, (1 / 4 + 1 / 16) / 2),
    ("squared_error", TWO, {}, (1 / 4 + 1 / 16) / 2),
    ("boundary", ONE, {}, 0.25),
    ("boundary", ONE, {"variant": "segloss"}, 0.25),
    ("boundary", ONE, {"variant": "plain"}, -0.125),
    ("boundary", ONE, {"variant": "plain", "distance_maps": jnp.array([[[2.0], [4.0]]])}, 2.0),
    ("hausdorff", ONE, {}, (0.25 + 0.0625) * 2 / 2),
    ("hausdorff", ONE, {"field": "foreground"}, 0.0625 * 2 / 2),
    ("hausdorff", ONE, {"alpha": 1.0, "distance_maps": jnp.array([[[3.0], [-2.0]]])}, (0.25 * 4 + 0.0625 * 3) / 2),
    ("near_pixel", jnp.array([[[[3.0], [0.0], [0.0], [0.0], [1.0]]]]), {"scale": 0.5}, 2.0),
    ("bce_dice", ONE, {}, 0.2 * BCE + 0.8 * DICE),
    ("bce_dice", TWO, {"alpha": 0.7}, 0.7 * BCE + 0.3 * (1 - 2 * 1.25 / 4)),
    ("exp_log", ONE, {"gamma": 1.0, "smooth": 0.0}, 0.8 * math.log(1.5) + 0.2 * BCE),
    (
        "exp_log",
        TWO,
        {"background": False, "smooth": 0.0, "frequencies": (3.0, 1.0)},
        0.8 * math.log(1.5) ** 0.3 + 0.2 * (math.sqrt(4 / 3) * LN2**0.3 + 2 * LN4_3**0.3) / 2,
    ),
    ("brats3d_standard", TWO, {}, 0.5 * BCE + 0.5 * (1 - (2 * 0.5 / 1.75 + 2 * 0.75 / 2.25) / 2)),
    ("brats3d_squared", ONE, {}, 0.3 * BCE + 0.7 * (1 - 2 * 0.5625 / (0.8125 + 1))),
    ("nnunet", TWO, {}, BCE + DICE),
    ("nnunet", ONE, {}, BCE + DICE),
]


@pytest.mark.parametrize("name,logits,options,expected", HAND)
def test_hand_worked_number(name, logits, options, expected):
    labels = jnp.zeros(logits.shape[:-1], int) if name == "near_pixel" else LABELS
    total, count = jax.jit(lambda logits: TERMS[name](logits, labels, **options))(logits)
    np.testing.assert_allclose(total / count, expected, rtol=3e-5)  # smoothing of 1e-5 in the overlap terms


def test_every_term_has_a_hand_worked_number():
    assert {case[0] for case in HAND} == set(TERMS)


def test_golden_values_of_the_brats3d_losses():
    logits = np.zeros((1, 2, 2, 2, 4), np.float32)
    logits[..., 1] = 1
    labels = np.zeros((1, 2, 2, 2), int)
    labels[0, 0], labels[0, 1, 0, 0] = 1, 3
    for name, golden in (("brats3d_standard", 1.0128719), ("brats3d_squared", 1.0001227)):
        np.testing.assert_allclose(TERMS[name](jnp.asarray(logits), labels)[0], golden, atol=2e-7)


def test_lovasz_of_a_hard_prediction_is_the_jaccard_loss():
    random = np.random.default_rng(0)
    labels, guess = random.integers(0, 3, (2, 2, 40))
    logits = 50 * np.eye(3, dtype=np.float32)[guess]  # softmax within 1e-21 of 0 and 1
    jaccard = [
        [1 - ((labels == k) & (guess == k))[b].sum() / ((labels == k) | (guess == k))[b].sum() for k in range(3)]
        for b in range(2)
    ]
    np.testing.assert_allclose(TERMS["lovasz"](jnp.asarray(logits), labels)[0] / 2, np.mean(jaccard), rtol=1e-6)


def test_lovasz_averages_over_present_classes_only():
    logits, labels = jnp.zeros((1, 4, 3)), np.zeros((1, 4), int)  # p = 1/3; classes 1 and 2 absent
    lovasz = lambda **options: jax.jit(lambda z: TERMS["lovasz"](z, labels, **options)[0])(logits)
    np.testing.assert_allclose(lovasz(), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(lovasz(classes="all"), (2 / 3 + 1 / 3 + 1 / 3) / 3, rtol=1e-6)
    assert lovasz(background=False) == 0


def test_near_pixel_difference_by_loops_and_its_factor_of_the_batch():
    z = np.random.default_rng(0).normal(size=(3, 6, 7, 1)).astype(np.float32)
    expected = 0.0
    for dy, dx in ((0, 4), (4, 0), (4, 4), (4, -4)):
        pairs = [
            (z[b, y, x, 0] - z[b, y + dy, x + dx, 0]) ** 2
            for b in range(3)
            for y in range(6)
            for x in range(7)
            if y + dy < 6 and 0 <= x + dx < 7
        ]
        expected += np.mean(pairs)
    total, count = TERMS["near_pixel"](jnp.asarray(z), np.zeros((3, 6, 7), int))
    np.testing.assert_allclose(total / count, 3 * expected, rtol=1e-5)
    total, count = TERMS["near_pixel"](jnp.asarray(z), np.zeros((3, 6, 7), int), times_batch=False, scale=0.01)
    np.testing.assert_allclose(total / count, 0.01 * expected, rtol=1e-5)


def test_exp_log_keeps_its_power_down_to_a_likelihood_loss_of_1e_6():
    logits = jnp.array([[[-math.log(math.expm1(1e-4))]]])  # -ln p = 1e-4
    total, _ = TERMS["exp_log"](logits, jnp.ones((1, 1), int), dice_weight=0.0, cross_weight=1.0)
    np.testing.assert_allclose(total, 1e-4**0.3, rtol=1e-3)  # p in float32
    assert TERMS["exp_log"](logits + 100, jnp.ones((1, 1), int))[0] == 0


def test_constant_logits_have_no_near_pixel_difference():
    assert TERMS["near_pixel"](jnp.full((2, 8, 8, 1), 3.0), np.zeros((2, 8, 8), int))[0] == 0


def test_keras_bce_dice_by_its_own_formula():
    random = np.random.default_rng(0)
    z, labels = random.normal(0, 2, (2, 5, 4)), random.integers(0, 4, (2, 5))
    p, y = np.exp(z) / np.exp(z).sum(-1, keepdims=True), np.eye(4)[labels]
    bce = -(y * np.log(p + 1e-7) + (1 - y) * np.log(1 - p + 1e-7)).mean(-1).mean()
    dice = 1 - (2 * (y * p).sum() + 1e-6) / (y.sum() + p.sum() + 1e-6)
    total, count = TERMS["bce_dice"](jnp.asarray(z, jnp.float32), labels, alpha=0.7)
    np.testing.assert_allclose(total / count, 0.7 * bce + 0.3 * dice, rtol=1e-5)
    total, count = TERMS["focal"](jnp.asarray(z, jnp.float32), labels, alpha=0.5, gamma=2.5, form="elements", channels="sum")
    pt = np.where(y == 1, p, 1 - p)
    np.testing.assert_allclose(total / count, (-0.5 * (1 - pt) ** 2.5 * np.log(pt)).sum(-1).mean(), rtol=1e-5)


SQUARE = np.zeros((1, 7, 8), int)
SQUARE[0, 2:6, 1:5] = 1


def test_signed_distance_is_negative_inside_and_in_millimetres():
    signed_distance = jax.jit(boundary.signed_distance, static_argnums=(1, 2))
    phi = signed_distance(SQUARE, 2)
    assert phi.shape == (1, 7, 8, 2) and phi.dtype == np.float32
    assert phi[0, 3, 2, 1] == -2 and phi[0, 2, 1, 1] == -1 and phi[0, 2, 7, 1] == 3 and phi[0, 0, 6, 1] == math.sqrt(8)
    np.testing.assert_array_equal(phi[..., 0], -phi[..., 1])  # the background is the complement
    assert signed_distance(SQUARE, 2, (2.0, 0.5))[0, 2, 7, 1] == 1.5
    np.testing.assert_array_equal(signed_distance(SQUARE * 3, 1)[..., 0], phi[..., 1])
    assert not signed_distance(np.zeros_like(SQUARE), 3)[..., 1:].any()  # absent
    assert not signed_distance(np.ones_like(SQUARE), 2).any()  # fills the image


@pytest.mark.parametrize("variant,inner,corner", [("kervadec", -1.0, 0.0), ("segloss", -2.0, 0.0), ("plain", -2.0, -1.0)])
def test_boundary_variants_differ_inside_the_region(variant, inner, corner):
    # the gradient of the mean of p psi with respect to p is psi / N; p = sigmoid(z) has slope 1/4 at z = 0
    loss = lambda z: TERMS["boundary"](z, SQUARE, variant=variant)[0]
    grad = jax.jit(jax.grad(loss))(jnp.zeros((1, 7, 8, 1)))[0, ..., 0] * 4 * 56
    np.testing.assert_allclose([grad[3, 2], grad[2, 1], grad[2, 7]], [inner, corner, 3.0], atol=1e-5)


def test_maps_of_the_batch_equal_those_made_on_the_way():
    random = np.random.default_rng(0)
    logits, labels = jnp.asarray(random.normal(size=(2, 6, 7, 3)), jnp.float32), random.integers(0, 3, (2, 6, 7))
    maps = jax.jit(boundary.signed_distance, static_argnums=1)(labels, 3)
    for name in ("boundary", "hausdorff"):
        for background in (False, True):
            term = functools.partial(TERMS[name], background=background)
            with_maps = jax.jit(lambda z, m: term(z, labels, distance_maps=m)[0])(logits, maps)  # noqa: B023
            np.testing.assert_allclose(with_maps, jax.jit(lambda z: term(z, labels)[0])(logits), rtol=1e-6)  # noqa: B023


def test_distances_are_those_of_scipy():
    regions = np.random.default_rng(1).random((2, 9, 11, 3)) > [0.5, 0.9, 0.1]
    found = np.asarray(jax.jit(boundary.region_distance)(regions))
    for b, k in np.ndindex(2, 3):
        inside = regions[b, ..., k]
        expected = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
        np.testing.assert_allclose(found[b, ..., k], expected, rtol=1e-6)
