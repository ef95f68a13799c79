"""The contract tests accept what keeps the contract, and name the rule that a broken part breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import layers, testing
from jaxseg.models import Segmenter
from jaxseg.models.base import Outputs

pytestmark = pytest.mark.filterwarnings("error")


class Net(Segmenter):
    """Two convolutions; `broken` says which rule it breaks."""

    def __init__(self, *, in_channels, num_classes, rank, rngs, broken=""):
        self.in_channels, self.num_classes, self.rank, self.broken = in_channels, num_classes, rank, broken
        self.stem = layers.Conv(in_channels, 8, 3, rank=rank, rngs=rngs)
        self.norm = layers.BatchNorm(8, rngs=rngs)
        self.head = layers.Conv(8, num_classes, 1, rank=rank, rngs=rngs)
        self.idle = layers.Conv(8, 8, 1, rank=rank, rngs=rngs) if broken == "idle" else None
        self.hidden = float(np.random.random()) if broken == "unsaved" else None

    def forward(self, image, context):
        x = jax.nn.relu(self.norm(self.stem(image), context))
        if self.broken == "branch" and x.mean() > 0:
            x = 2 * x
        if self.broken == "mixed":
            x = x - x.mean(0)
        if self.broken == "random":
            x = x + np.random.random()
        if self.broken == "unsaved":
            x = x + self.hidden
        logits = self.head(x)
        if self.broken == "cropped":
            logits = logits[:, : logits.shape[1] // 2 * 2]
        if self.broken == "nan":
            logits = logits + jnp.sqrt(jnp.square(x - x).sum(-1, keepdims=True))
        if self.broken == "half":
            logits = logits + (jnp.float32(30) * image.astype(jnp.float32).mean() if image.dtype == jnp.bfloat16 else 0)
        return Outputs(logits)


@pytest.mark.parametrize(
    "broken, words",
    {
        "branch": "expected jit .*to work, got TracerBoolConversionError: .*test_parts.py:",
        "cropped": r"expected logits of shape \(2, 65, 67, 2\), got \(2, 64, 67, 2\); look at forward",
        "random": "the same logits with and without jit, got a difference",
        "mixed": "examples of a batch that do not depend on each other",
        "half": "logits of a bfloat16 image within 10%",
        "nan": "finite gradients, got NaN or Inf in ",
        "idle": "a gradient in every parameter, got none in idle.bias, idle.weight; look at",
        "unsaved": "the same logits from saved and restored values",
    }.items(),
)
@pytest.mark.usefixtures("unoptimised")
def test_each_rule_that_a_network_breaks_is_named(broken, words):
    with pytest.raises(AssertionError, match=f"network Net: .*{words}") as error:
        testing.check_network(Net, broken=broken)
    assert "\n" not in str(error.value)


def dice(logits, labels, *, weight=None, smooth=1.0):
    """A loss that keeps the contract."""
    weight = jnp.ones(logits.shape[0]) if weight is None else weight
    p = jax.nn.softmax(logits, -1)[..., 1]
    t = (labels == 1).astype(jnp.float32)
    axes = tuple(range(1, t.ndim))
    each = 1 - (2 * (p * t).sum(axes) + smooth) / (p.sum(axes) + t.sum(axes) + smooth)
    return (weight * each).sum(), weight.sum()


@pytest.mark.usefixtures("unoptimised")
def test_a_loss_is_held_to_its_laws():
    testing.check_loss(dice)
    testing.check_loss(dice, rank=3, options={"smooth": 0.5})
    broken = {
        "expected .sum, weight. as two numbers, got": lambda z, y, *, weight=None: dice(z, y)[0],
        "to cost less than its opposite": lambda z, y, *, weight=None: tuple(
            s * v for s, v in zip((-1, 1), dice(z, y, weight=weight))
        ),
        "of weight 0 to change nothing": lambda z, y, *, weight=None: dice(z, y),
        "finite value of logits of 10000, wrong": lambda z, y, *, weight=None: (
            -jnp.log((jax.nn.softmax(z) * jax.nn.one_hot(y, 2)).sum(-1)).mean((1, 2)).sum(),
            jnp.float32(z.shape[0]),
        ),
        "must be a function": lambda z, y: 0.0,
    }
    for words, loss in broken.items():
        with pytest.raises(AssertionError, match=words):
            testing.check_loss(loss)
    with pytest.raises(AssertionError, match="has no option 'smoth'"):
        testing.check_loss(dice, options={"smoth": 1.0})


def test_a_metric_is_held_to_its_laws():
    iou = lambda p, t, spacing: float((p & t).sum() / max((p | t).sum(), 1))
    testing.check_metric(iou)
    broken = {
        "one number for": lambda p, t, spacing: (p & t).sum(0),
        "masks that stay as they are": lambda p, t, spacing: float(np.logical_xor(p, t, out=p).sum()),
        "another number for a perfect": lambda p, t, spacing: 1.0,
        "finite number or NaN for an empty": lambda p, t, spacing: float(
            np.divide((p ^ t).sum(), (t.sum() and p.sum()), dtype=float)
        ),
        "for the same masks again": lambda p, t, spacing: float(iou(p, t, spacing) + np.random.random()),
        "ZeroDivisionError": lambda p, t, spacing: 2 * int((p & t).sum()) / int(p.sum() + t.sum()),
    }
    for words, metric in broken.items():
        with pytest.raises(AssertionError, match=words), np.errstate(divide="ignore"):
            testing.check_metric(metric)


def test_an_optimiser_and_a_schedule_are_held_to_their_laws():
    testing.check_optimizer("optax:adam")
    testing.check_optimizer("sgd", options={"momentum": 0.9})
    with pytest.raises(AssertionError, match="a bowl descended"):  # optax adds its updates
        testing.check_optimizer(lambda learning_rate: optax.scale(learning_rate))
    with pytest.raises(AssertionError, match="not proportional to its learning rate"):
        testing.check_optimizer(lambda learning_rate: optax.chain(optax.scale(-learning_rate), optax.clip(0.1)))
    testing.check_schedule("optax:cosine_decay_schedule")
    testing.check_schedule("poly")
    with pytest.raises(AssertionError, match="finite factor from 0 on, got"):
        testing.check_schedule(lambda: lambda step: 1.0 - step / 10)
    with pytest.raises(AssertionError, match="must return a function of the step that jax can trace"):
        testing.check_schedule(lambda: lambda step: 1.0 if step < 3 else 0.1)
