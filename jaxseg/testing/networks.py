"""check_network: the contract of `models/base.py`, on a network of your own."""

import functools
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import checkpoint
from jaxseg.augment import compose as augmentations
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional
from jaxseg.models.base import Segmenter
from jaxseg.models.functional import ForwardContext
from jaxseg.optim import build as optimizers
from jaxseg.optim import schedules
from jaxseg.testing.expectation import Tested
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps
from jaxseg.types import Batch

SMALLEST = {2: 64, 3: 16}  # pixels or voxels of the first size tried: at stride 32 more than one position is left
SEARCHED = 600  # sizes after that
BFLOAT16 = 0.1  # of the logits' deviation: errors of 8 bits add up over some tens of layers
EXACT = 1e-4  # of the logits' deviation, for sums in another order

_forward = functools.partial(jax.jit, static_argnums=0)(lambda network, *a: network.apply(*a)[0])


def check_network(
    network: str | type[Segmenter],
    *,
    in_channels: int = 1,
    num_classes: int = 2,
    rank: int = 2,
    sizes: Sequence[tuple[int, ...]] = (),
    **options: Any,
) -> None:
    """Check the properties of a network on which training, evaluation and prediction rely.

    Logits are float32 [B, *S, K] at an even and an odd size; in inference there are no auxiliary outputs, and the examples of a
    batch do not depend on each other; jit does not change the result; bfloat16 images work; gradients are finite and reach every
    parameter; saved and restored values give the same logits; a training step on two devices equals one on a single device.

    Args:
      network: your class, its path "module:Name", or a name of `jaxseg.models.list_models()`.
      in_channels, num_classes, rank: arguments with which it is built.
      sizes: two spatial sizes to try; (): the smallest even and odd sizes of at least 64 pixels (16 voxels) that its `check`
        accepts.
      **options: further arguments of the network.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    name = network if isinstance(network, str) else network.__qualname__

    def build(seed: int) -> Segmenter:
        return create_model(network, in_channels=in_channels, num_classes=num_classes, rank=rank, seed=seed, **options)

    part = Tested(f"network {name}", network if isinstance(network, type) else Segmenter)
    model = part.attempt("building it", build, 0)
    part = Tested(part.name, type(model))
    even, odd = sizes or _sizes(part, model)
    described, params, state = functional.split(model)
    random = np.random.default_rng(0)
    # zeros at initialisation (of residual branches, say) would hide what lies behind them
    params = {n: p + 0.02 * random.normal(size=p.shape).astype(np.float32) for n, p in params.items()}
    image = lambda size: random.normal(size=(2, *size, in_channels)).astype(np.float32)
    logits = {}
    for size in (even, odd):
        x = image(size)
        outputs = part.attempt(f"jit with an image of {x.shape}", _forward, described, params, state, x)
        shape = (2, *size, num_classes)
        part.expect(outputs.logits.shape == shape, f"logits of shape {shape}", f"{outputs.logits.shape}", _forward_of(part))
        part.expect(
            outputs.logits.dtype == jnp.float32, "float32 logits", f"{outputs.logits.dtype}", "outputs, which you override"
        )
        found = np.asarray(outputs.logits)
        part.expect(bool(np.isfinite(found).all()), "finite logits", f"{(~np.isfinite(found)).sum()} others", _forward_of(part))
        part.expect(outputs.aux == (), "no auxiliary outputs in evaluation", f"{len(outputs.aux)}", "outputs, which you override")
        part.expect(float(found.std()) > 0, "logits that depend on the image", "a constant", _forward_of(part))
        logits[size] = x, found
    x, found = logits[odd]
    _check_evaluation(part, described, params, state, x, found)
    _check_gradients(part, described, params, state, x)
    _check_saved(part, build, described, params, state, x, found)
    _check_sharded(part, described, params, state, logits[even][0], num_classes, rank)


def _forward_of(part: Tested) -> str:
    return f"forward ({part.place()})"


def _sizes(part: Tested, model: Segmenter) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An even size of equal sides, and an odd one of unequal sides; the next ones that are taken, where none is odd."""
    first = SMALLEST[model.rank]

    def taken(n: int) -> bool:
        try:
            model.check((1, *(n,) * model.rank, model.in_channels))
        except ValueError:
            return False
        return True

    fitting = [n for n in range(first, first + SEARCHED) if taken(n)]
    part.expect(
        len(fitting) >= 2, f"two sizes from {first} to {first + SEARCHED}", f"{fitting}", "size_multiple, min_size and check"
    )
    even = [n for n in fitting if n % 2 == 0] or fitting
    odd = [n for n in fitting if n % 2] or [n for n in fitting if n != even[0]]
    sides = (odd[0],) * (model.rank - 1)
    longer = odd[min(1, len(odd) - 1)]
    try:
        model.check((1, *sides, longer, model.in_channels))
    except ValueError:  # it takes images of equal sides alone
        longer = odd[0]
    return (even[0],) * model.rank, (*sides, longer)


def _check_evaluation(part: Tested, network, params, state, x: np.ndarray, expected: np.ndarray) -> None:
    eager = part.attempt("calling it without jit", network.apply, params, state, jnp.asarray(x))[0].logits
    part.close(
        eager, expected, EXACT, "the same logits with and without jit", "random numbers or branches that are not jax's in forward"
    )
    other = np.concatenate([x[:1], 3 * x[1:] + 1])
    first = np.asarray(_forward(network, params, state, other).logits)[0]
    part.close(
        first,
        expected[0],
        EXACT,
        "examples of a batch that do not depend on each other in evaluation",
        "means over the batch axis, or a norm that ignores context.train, in forward",
    )
    low = part.attempt("a bfloat16 image", _forward, network, params, state, jnp.asarray(x, jnp.bfloat16)).logits
    part.expect(low.dtype == jnp.float32, "float32 logits of a bfloat16 image", f"{low.dtype}", "outputs, which you override")
    error = float(np.sqrt(np.mean((np.asarray(low) - expected) ** 2)))
    scale = max(float(expected.std()), float(np.abs(expected).mean()))
    part.expect(
        error <= BFLOAT16 * scale,
        f"logits of a bfloat16 image within {BFLOAT16:.0%} of their deviation",
        f"{error / scale:.0%}",
        "sums and norms in forward: compute them in float32",
    )


def _check_gradients(part: Tested, network, params, state, x: np.ndarray) -> None:
    context = lambda: ForwardContext(train=True, key=jax.random.key(0))
    shapes = part.attempt("tracing it in training", jax.eval_shape, lambda p: network.apply(p, state, x, context())[0], params)
    random = np.random.default_rng(1)
    weights = [random.normal(size=a.shape).astype(np.float32) for a in (shapes.logits, *shapes.aux)]

    def loss(params):
        outputs, _ = network.apply(params, state, x, context())
        return sum(jnp.mean(w * a + a * a) for w, a in zip(weights, (outputs.logits, *outputs.aux)))

    grads = part.attempt("a gradient in training", jax.jit(jax.grad(loss)), params)
    wrong = [n for n, g in grads.items() if not np.isfinite(g).all()]
    part.expect(
        not wrong, "finite gradients", f"NaN or Inf in {_some(wrong)}", "divisions, roots and logarithms near these layers"
    )
    idle = [n for n, g in grads.items() if not np.any(g)]
    part.expect(
        not idle,
        "a gradient in every parameter",
        f"none in {_some(idle)}",
        "layers that forward does not call, and stop_gradient",
    )


def _check_saved(part: Tested, build, network, params, state, x: np.ndarray, expected: np.ndarray) -> None:
    tree = {"params": params, "state": {n: np.asarray(s) for n, s in state.items()}}
    with tempfile.TemporaryDirectory() as folder, checkpoint.Checkpoints(folder) as saved:
        part.attempt("saving it", saved.save, 1, tree, {})
        saved.wait()
        restored, _, _ = part.attempt("restoring it", saved.restore, tree)
    other = build(1)
    part.attempt("taking restored values", functional.assign, other, restored["params"], restored["state"])
    again, values, rest = functional.split(other)
    part.expect(
        again.names == network.names, "the same tensors whatever the random seed", "others", "arrays named by their values"
    )
    part.close(
        _forward(again, values, rest, x).logits,
        expected,
        EXACT,
        "the same logits from saved and restored values",
        "arrays that are not nnx.Param, nnx.BatchStat or Buffer, so that checkpoints do not hold them",
    )


def _check_sharded(part: Tested, network, params, state, x: np.ndarray, num_classes: int, rank: int) -> None:
    if len(jax.devices()) < 2:
        warnings.warn(
            f"{part.name}: a sharded step was not tried, because it needs two devices; to make two of a CPU, set "
            "XLA_FLAGS=--xla_force_host_platform_device_count=2",
            stacklevel=3,
        )
        return
    random = np.random.default_rng(2)
    mask = random.integers(0, max(num_classes, 2), x.shape[:-1])
    context = ForwardContext(train=True, key=jax.random.key(0))
    aux = len(jax.eval_shape(lambda p: network.apply(p, state, x, context)[0].aux, params))
    loss = losses.build((("bce" if num_classes == 1 else "cross_entropy", 1.0),), aux_weights=(1.0,) * aux)
    found = []
    for devices in (1, 2):
        mesh = meshes.make(devices)
        optimizer = optimizers.build(params, name="sgd")
        step = steps.build(
            network,
            loss,
            optimizer,
            schedules.build(name="constant", total_steps=2, steps_per_epoch=1),
            augmentations.build((), rank=rank),
            mesh,
            lr=1.0,
            auxiliary=aux > 0,
        )
        storage = states.storage(network, optimizer)
        fresh = storage.join(states.create(params, state, optimizer, ema=False))
        batch = Batch(image=x, mask=mask.astype(np.int32), index=np.arange(len(x)))
        new, _ = part.attempt(
            f"a training step over {devices} device{'s' * (devices > 1)}",
            step,
            states.place(fresh, meshes.replicated(mesh)),
            meshes.put(batch, mesh),
        )
        found.append(storage.part(jax.device_get(new))["params"])
    single, sharded = ({n: a[n] - params[n] for n in params} for a in found)
    scale = max(float(np.abs(u).max()) for u in single.values())
    errors = {n: float(np.abs(sharded[n] - u).max()) / max(scale, 1e-12) for n, u in single.items()}
    worst = max(errors, key=lambda name: errors[name])
    part.expect(
        errors[worst] <= 1e-3,
        "a step over two devices to equal that over one",
        f"updates of {worst} that differ by {errors[worst]:.1e} of the largest",
        "shard_map, axis names, or random numbers drawn for the whole batch",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
