"""What every parity test shares: redrawn weights, the comparison, gradients of both sides.

Weights, biases and BatchNorm statistics are redrawn, and the classifier scaled, so that the logits' standard deviation is
at least 1: at fresh initialisation a wrong GELU moves them by 5e-8 and no test would see it.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxseg.layers import Run
from jaxseg.models import functional
from jaxseg.ops.conv.cpu import choose
from jaxseg.weights import from_torch

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


def relative_error(model, twin, image, least=1.0) -> float:
    """Largest error of the logits over their standard deviation (which must be at least `least`), in inference."""
    with torch.no_grad():
        reference = np.moveaxis(twin.eval()(channels_first(image)).numpy(), 1, -1)
    logits = np.asarray(model(image))
    assert logits.shape == reference.shape and logits.dtype == np.float32
    assert reference.std() >= least
    return float(np.abs(logits - reference).max() / reference.std())


@contextlib.contextmanager
def in_double():
    """What our layers make and sum in float32 is float64 in here; a model built here has float64 parameters.

    For networks whose gradients float32 does not hold: a difference from a twin in float64 is then a mistake. Convolutions are
    XLA's own (their lowerings are compared with them in tests/ops).
    """
    with (jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64),
          mock.patch.object(choose, "lowerings", lambda *_: choose.XLA)):
        yield


def training_step(model, image, target, options):
    """(loss, gradients, new state) of mean(logits * target) in training mode; gradients and state by PyTorch's layouts."""
    network, params, state = functional.split(model)

    def loss(params):
        outputs, new_state = network.apply(params, state, image, Run(train=True, key=jax.random.key(0)))
        return jnp.mean(outputs.logits * target), new_state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
    (value, new_state), grads = step.compile(compiler_options=options)(params)
    leaves = dict(zip(network.names, network.leaves))
    as_torch = lambda tree: {n: from_torch.to_layout(np.asarray(v), leaves[n]) for n, v in tree.items()}
    return float(value), as_torch(grads), as_torch(new_state)


def twin_step(twin, image, target):
    """The same of the twin: (loss, gradients by its names, buffers by its names)."""
    twin.train()
    twin.zero_grad()
    loss = (twin(channels_first(image)) * channels_first(target)).mean()
    loss.backward()
    return (float(loss.detach()), {n: p.grad.numpy() for n, p in twin.named_parameters()},
            {n: b.numpy() for n, b in twin.named_buffers()})


def assert_step_equal(model, twin, image, options=None):
    """Loss, every gradient and every running statistic of one training step agree; `options` of XLA's compiler."""
    target = images((*image.shape[:-1], model.num_classes), seed=1)
    report = from_torch.load(model, twin.state_dict())
    assert not report.initialised, report
    names = own_names(model, twin)
    value, grads, state = training_step(model, image, target, options)
    twin_value, twin_grads, buffers = twin_step(twin, image, target)
    assert abs(value - twin_value) <= 1e-4 * max(abs(twin_value), 1e-2)
    assert {names[n] for n in twin_grads} == set(grads)
    # a bias in front of a BatchNorm has gradient zero up to rounding: compared with the largest gradient of all
    floor = 1e-5 * max(np.abs(g).max() for g in twin_grads.values())
    for name, g in twin_grads.items():
        error = np.abs(grads[names[name]].reshape(g.shape) - g).max()
        assert error <= 1e-3 * np.abs(g).max() + floor, (name, error, np.abs(g).max())
    moved = 0
    for name, b in buffers.items():
        if "running" in name:
            np.testing.assert_allclose(state[names[name]], b, rtol=1e-4, atol=1e-5, err_msg=name)
            moved += 1
    assert moved == sum("running" in n for n in state)


def own_names(model, twin):
    """Name in the twin's state dict -> ours."""
    network, _, _ = functional.split(model)
    leaves = dict(zip(network.names, network.leaves))
    return from_torch._match(twin.state_dict(), leaves, from_torch._spellings(model), None)[2]
