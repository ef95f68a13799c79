"""Convert logits to labels and to probabilities: for several classes, a single class, and regions."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from jaxseg.data.prepare.labels import dtype_for
from jaxseg.infer.cascade import NEVER
from jaxseg.metrics.regions import labels_from_regions
from jaxseg.types import Array


def labels_of(logits: Array, *, order: Sequence[int] = (), threshold: float = 0.5) -> np.ndarray:
    """Convert logits [*S, K] to labels [*S], uint8 (uint16 for more than 256 classes).

    Args:
      logits: [*S, K].
      order: for regions: the class of every combination of regions (`metrics.regions.class_table`); () for classes.
      threshold: a probability (0-1): of the foreground for one class, of each region for regions.
    """
    logits = np.asarray(logits)
    cut = float(np.log(threshold / (1 - threshold)))
    if order:
        return labels_from_regions(logits, order, cut)
    if logits.shape[-1] == 1:
        return (logits[..., 0] >= cut).astype(np.uint8)
    labels = np.empty(logits.shape[:-1], dtype_for(logits.shape[-1] - 1))
    for plane, scores in zip(labels, logits):  # one plane's indices or differences at a time: they have 8 and 4 bytes
        plane[...] = scores[..., 1] - scores[..., 0] > cut if logits.shape[-1] == 2 else scores.argmax(-1)
    return labels


def probabilities_of(logits: Array, *, regions: bool = False) -> np.ndarray:
    """Return probabilities float32 [*S, K'] of the regions, of the one class, or of the foreground classes of a softmax."""
    logits = jnp.asarray(logits, jnp.float32)
    if regions or logits.shape[-1] == 1:
        return np.asarray(jax.nn.sigmoid(logits))
    return np.asarray(jax.nn.softmax(logits, -1)[..., 1:])


def probabilities(logits: np.ndarray, *, sigmoid: bool) -> np.ndarray:
    """Return the probabilities float32 [*S, K] of all K logits, by a sigmoid of each or a softmax over them."""
    logits = jnp.asarray(logits, jnp.float32)
    return np.asarray(jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits, -1))


def logits_of(probabilities: np.ndarray, *, sigmoid: bool) -> np.ndarray:
    """Return logits with these probabilities [*S, K]; 0 and 1 become finite: about -69, and 16 or more."""
    p = np.maximum(probabilities, 1e-30)
    return np.log(p) - np.log(np.maximum(1 - p, 1e-7)) if sigmoid else np.log(p)


def entropy_of(logits: np.ndarray, *, regions: bool = False) -> np.ndarray:
    """Entropy of the probabilities in bits, -sum p log2 p, float32 [*S, M].

    A softmax over K classes has one map (M = 1) with values from 0 to log2 K; sigmoids have one map for each class or region,
    from 0 to 1. Voxels that the network did not see are background with certainty: 0.
    """
    sigmoid = regions or logits.shape[-1] == 1
    bits = np.empty((*logits.shape[:-1], logits.shape[-1] if sigmoid else 1), np.float32)
    for plane, z in zip(bits, logits):  # one plane's probabilities in memory at a time
        z = np.asarray(z, np.float32)
        if sigmoid:
            nats = -sum(expit(v) * log_expit(v) for v in (z, -z))
        else:
            nats = -(softmax(z, -1) * log_softmax(z, -1)).sum(-1, keepdims=True)
        plane[...] = nats / np.log(2)
    return bits


def variance_of(members: Iterable[np.ndarray], *, regions: bool = False) -> np.ndarray:
    """Variance of the probabilities over the members of an ensemble, float32 [*S, M], from 0 to 1/4.

    A softmax has one map (M = 1), the mean of the variances of its K probabilities; sigmoids have one map each.

    Args:
      members: logits [*S, K] of each member (at least two), which are consumed one after the other.
    """
    mean, total, count = np.zeros(()), np.zeros(()), 0
    for member in members:  # Welford's sums
        if not count:
            mean, total = (np.zeros(member.shape, np.float32) for _ in range(2))
        count += 1
        sigmoid = regions or member.shape[-1] == 1
        for average, squares, z in zip(mean, total, member):
            z = np.asarray(z, np.float32)
            p = expit(z) if sigmoid else softmax(z, -1)
            delta = p - average
            average += delta / count
            squares += delta * (p - average)
    found = total / count
    return found if regions or found.shape[-1] == 1 else found.mean(-1, keepdims=True)


def background(num_classes: int, *, regions: bool = False) -> tuple[float, ...]:
    """Return logits [K] that mean background with certainty, for voxels that the network did not see."""
    return (NEVER,) * num_classes if regions or num_classes == 1 else (0.0, *(NEVER,) * (num_classes - 1))
