"""What every parity test shares: redrawn weights, the comparison, gradients of both sides.

Weights, biases and BatchNorm statistics are redrawn, and the classifier scaled, so that the logits' standard deviation is
at least 1: at fresh initialisation a wrong GELU moves them by 5e-8 and no test would see it.
"""

import contextlib
import copy
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxseg.layers import ForwardContext
from jaxseg.models import functional
from jaxseg.ops.conv.cpu import choose
from jaxseg.weights import from_torch, state_dict

TOLERANCE = 1e-4  # of the reference logits' standard deviation: float32 sums in another order, through some 30 layers


def redraw(module, image, seed=0, classifier=None):
    """New values for every parameter and statistic (statistics drawn about those of `image`).

    The tensors called `classifier`.* are scaled so that the logits have a standard deviation of 2.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                p.normal_(0, (1.0 / p[0].numel()) ** 0.5)
            elif "layer_scale" in name:
                p.uniform_(0.1, 0.3)
            elif name.endswith("weight"):
                p.uniform_(0.6, 1.4)
            else:
                p.normal_(0, 0.2)
        # statistics near the batch's own: the attention is quadratic, with foreign ones thirteen blocks overflow
        norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
        module.train()(channels_first(image))
        for m, momentum in zip(norms, momenta):
            m.momentum = momentum
            spread = m.running_var.sqrt()
            m.running_mean += 0.2 * spread * torch.randn_like(spread)
            m.running_var *= torch.empty_like(spread).uniform_(0.9, 1.6)
        module.eval()
        std = module(channels_first(image)).std()
        for name, p in module.named_parameters():
            if name.startswith(classifier):
                p.mul_(2 / std)
    return module


def channels_first(image):
    return torch.from_numpy(np.moveaxis(image, -1, 1).copy())


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative_error(model, peer, image, least=1.0) -> float:
    """Largest error of the logits over their standard deviation (which must be at least `least`), in inference."""
    with torch.no_grad():
        reference = np.moveaxis(peer.eval()(channels_first(image)).numpy(), 1, -1)
    logits = np.asarray(model(image))
    assert logits.shape == reference.shape and logits.dtype == np.float32
    assert reference.std() >= least
    return float(np.abs(logits - reference).max() / reference.std())


@contextlib.contextmanager
def in_double():
    """What our layers make and sum in float32 is float64 in here; a model built here has float64 parameters.

    For networks whose gradients float32 does not hold: a difference from PyTorch in float64 is then a mistake. Convolutions are
    XLA's own (their lowerings are compared with them in tests/ops).
    """
    with (
        jax.enable_x64(True),
        mock.patch.object(jnp, "float32", jnp.float64),
        mock.patch.object(choose, "lowerings", lambda *_: choose.XLA),
    ):
        yield


def assert_step_equal(model, peer, image, *, tolerance: float = 1e-3):
    """Outputs, loss, every gradient and every running statistic of one training step agree.

    The PyTorch network returns logits, or (logits, [auxiliary logits]); the loss reads all of them. Gradients agree to
    `tolerance` of their largest value, everything else to a tenth of it. PyTorch computes in float64, whatever we compute in
    (float32 or, `in_double`, float64): in float32 its own gradients are up to 1 % off on some processors.
    """
    report = from_torch.load(model, peer.state_dict())
    assert not report.initialised, report
    names = own_names(model, peer)
    peer, exact = copy.deepcopy(peer).double(), channels_first(image).double()
    outputs = peer.train()(exact)
    maps = [outputs[0], *outputs[1]] if isinstance(outputs, tuple) else [outputs]
    sizes = [(m.shape[0], *m.shape[2:], m.shape[1]) for m in maps]
    targets = [images(size, seed=i + 1).astype(image.dtype) for i, size in enumerate(sizes)]
    weights = [1.0, *(0.4 + 0.1 * i for i in range(len(maps) - 1))]
    loss = sum(w * (m * channels_first(t).double()).mean() for w, m, t in zip(weights, maps, targets))
    peer.zero_grad()
    loss.backward()

    value, ours, grads, state = _step(model, image, targets, weights)
    assert abs(value - float(loss.detach())) <= 0.1 * tolerance * max(abs(float(loss.detach())), 1e-2)
    assert len(ours) == len(maps)
    for a, m in zip(ours, maps):
        reference = np.moveaxis(m.detach().numpy(), 1, -1)
        assert np.abs(a - reference).max() <= 0.1 * tolerance * reference.std() and a.dtype == image.dtype
    theirs = {names[n]: p.grad for n, p in peer.named_parameters() if n in names}
    assert theirs.keys() == grads.keys()
    # a bias in front of a BatchNorm has gradient zero up to rounding: compared with the largest gradient of all
    floor = 0.01 * tolerance * max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, g in theirs.items():
        g = np.zeros(grads[name].shape) if g is None else g.numpy()  # no output uses it: no gradient there, zero here
        error = np.abs(grads[name].reshape(g.shape) - g).max()
        assert error <= tolerance * np.abs(g).max() + floor, (name, error, np.abs(g).max())
    moved = {names[n]: b.numpy() for n, b in peer.named_buffers() if "running" in n}
    assert moved.keys() == {n for n in state if "running" in n}
    for name, b in moved.items():
        np.testing.assert_allclose(state[name], b, rtol=0.1 * tolerance, atol=0.01 * tolerance, err_msg=name)


def _step(model, image, targets, weights):
    """(loss, outputs, gradients in PyTorch's layouts, new state)."""
    network, params, state = functional.split(model)

    def loss(params):
        outputs, new_state = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        maps = [outputs.logits, *outputs.aux]
        return sum(w * jnp.mean(m * t) for w, m, t in zip(weights, maps, targets)), (maps, new_state)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
    # runs once: at this level it compiles in half the time
    (value, (maps, new_state)), grads = step.compile(compiler_options={"xla_backend_optimization_level": 0})(params)
    leaves = dict(zip(network.names, network.leaves))
    return (
        float(value),
        [np.asarray(m) for m in maps],
        {n: from_torch.to_layout(np.asarray(g), leaves[n]) for n, g in grads.items()},
        {n: np.asarray(v) for n, v in new_state.items()},
    )


def assert_features_equal(ours, theirs):
    """Maps [B, *S, C] of ours and [B, C, *S] of the other implementation agree, finest first."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        b = np.moveaxis(b.numpy(), 1, -1)
        assert a.shape == b.shape and b.std() > 0.1
        assert np.abs(np.asarray(a) - b).max() <= TOLERANCE * b.std()


def own_names(model, peer):
    """Name in the PyTorch network's state dict -> ours."""
    network, _, _ = functional.split(model)
    leaves = dict(zip(network.names, network.leaves))
    return state_dict.find(peer.state_dict(), leaves, from_torch._key_mappings(model)).names
