"""check_loss: the contract of `losses/`, on a loss term of your own."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses import TERMS, compose
from jaxseg.models.base import Outputs
from jaxseg.testing.expectation import Tested, part_of

SHAPE = {2: (3, 9, 8), 3: (3, 5, 6, 4)}  # [B, *S] by rank
SURE = 8.0  # a logit that says yes
LARGE = 1e4


def check_loss(
    loss: str | Callable, *, num_classes: int = 2, rank: int = 2, options: Mapping[str, Any] | None = None, falls: bool = True
) -> None:
    """Check the properties of a loss term on which the training step relies.

    It returns (sum, weight), two numbers; a perfect prediction has a smaller loss than its opposite; examples of weight 0 have no
    effect; values and gradients are finite, also for empty masks and for logits of 10,000; jit does not change the result.

    Args:
      loss: your function (logits [B, *S, K], labels [B, *S], *, weight=None, **options) -> (sum, weight), its path "module:name",
        or a name in `jaxseg.losses.TERMS`.
      num_classes: K; 1 for one sigmoid logit.
      rank: number of spatial axes.
      options: its keyword arguments.
      falls: False for a penalty that does not use the labels (smoothness): a perfect prediction need not have a smaller loss.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(loss, "loss term", TERMS)
    name = compose.name_of(loss)
    term = part.attempt("building it", compose.build, ((loss, 1.0),), {name: dict(options)} if options else {})
    random = np.random.default_rng(0)
    classes = max(num_classes, 2)
    labels = random.integers(0, classes, SHAPE[rank]).astype(np.int32)
    logits = random.normal(size=(*SHAPE[rank], num_classes)).astype(np.float32)
    direct = part.attempt(
        "logits and labels", part.object, jnp.asarray(logits), jnp.asarray(labels), weight=None, **(options or {})
    )
    pair = isinstance(direct, tuple) and len(direct) == 2 and all(np.ndim(value) == 0 for value in direct)
    part.expect(pair, "(sum, weight) as two numbers", _shown(direct))
    value = jax.jit(functools.partial(_mean, term))
    eager, traced = direct[0] / direct[1], part.attempt("jit", value, logits, labels)
    part.expect(bool(np.isfinite(eager)), "a finite value", f"{eager}")
    part.expect(
        abs(float(traced) - float(eager)) <= 1e-5 * max(1.0, abs(float(eager))),
        f"the same value with jit as without, {float(eager):.6g}",
        f"{float(traced):.6g}",
        "random numbers or branches that are not jax's",
    )
    _check_gradients(part, value, labels, num_classes)
    sure = _sure(labels, num_classes)
    if falls:
        right, wrong = float(value(sure, labels)), float(value(-sure, labels))
        part.expect(right < wrong, "a perfect prediction to cost less than its opposite", f"{right:.6g} against {wrong:.6g}")
    weight = np.array([1.0, 1.0, 0.0], np.float32)
    changed = np.concatenate([logits[:2], -3 * logits[2:]])
    a, b = (float(value(x, labels, weight)) for x in (logits, changed))
    part.expect(
        abs(a - b) <= 1e-5 * max(1.0, abs(a)),
        "an example of weight 0 to change nothing",
        f"{a:.6g} and {b:.6g} for two such examples",
        f"where weight is used ({part.place()})",
    )


def _check_gradients(part: Tested, value: Callable, labels: np.ndarray, num_classes: int) -> None:
    gradient = jax.jit(jax.value_and_grad(value))
    random = np.random.default_rng(1)
    shape = (*labels.shape, num_classes)
    for what, logits, truth in (
        ("random logits", random.normal(size=shape), labels),
        ("empty masks", random.normal(size=shape), 0 * labels),
        ("masks that fill the image", random.normal(size=shape), 0 * labels + 1),
        (f"logits of {LARGE:g}, right", _sure(labels, num_classes) * LARGE / SURE, labels),
        (f"logits of {LARGE:g}, wrong", -_sure(labels, num_classes) * LARGE / SURE, labels),
    ):
        found, slope = part.attempt(what, gradient, logits.astype(np.float32), truth)
        look = f"divisions, logarithms and roots ({part.place()}): log_softmax and log_sigmoid stay finite"
        part.expect(bool(np.isfinite(found)), f"a finite value of {what}", f"{found}", look)
        bad = int((~np.isfinite(slope)).sum())
        part.expect(not bad, f"finite gradients of {what}", f"{bad} of {slope.size} that are not", look)
        if what == "random logits":
            part.expect(bool(np.any(slope)), "a gradient in the logits", "zeros", f"rounding or stop_gradient ({part.place()})")


def _sure(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Logits that say the labels for certain."""
    truth = labels[..., None] > 0 if num_classes == 1 else labels[..., None] == np.arange(num_classes)
    return np.where(truth, SURE, -SURE).astype(np.float32)


def _mean(term: Callable, logits, labels, weight=None):
    batch = {"mask": jnp.asarray(labels)} | ({} if weight is None else {"weight": jnp.asarray(weight)})
    total, count, _ = term(Outputs(jnp.asarray(logits)), batch)
    return total / count


def _shown(value) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(f'{type(v).__name__} of shape {np.shape(v)}' for v in value)})"
    return f"{type(value).__name__} of shape {np.shape(value)}"
