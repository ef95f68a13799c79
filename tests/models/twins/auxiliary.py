"""The training step of networks with auxiliary outputs: as `parity.assert_step_equal`, the loss over all outputs.

The twin returns (logits, [auxiliary logits]) in training. Parameters that no output uses have no gradient there, zero here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.layers import Run
from jaxseg.models import functional
from jaxseg.weights import from_torch
from tests.models.twins import parity


def assert_step_equal(model, twin, image, tolerance: float = 1e-3):
    """Outputs, loss, every gradient and every running statistic of one step agree, gradients to `tolerance` of their largest
    value, the others to a tenth of it. The model, the twin and the image are all float32 or, `parity.in_double`, all float64."""
    from_torch.load(model, twin.state_dict())
    names = parity.own_names(model, twin)
    outputs, aux = twin.train()(parity.channels_first(image))
    maps = [outputs, *aux]
    targets = [parity.images((*image.shape[:-1], model.num_classes), seed=i).astype(image.dtype) for i in range(len(maps))]
    weights = [1.0, *(0.4 + 0.1 * i for i in range(len(aux)))]
    loss = sum(w * (m * parity.channels_first(t)).mean() for w, m, t in zip(weights, maps, targets))
    twin.zero_grad()
    loss.backward()

    value, ours, grads, state = _step(model, image, targets, weights)
    assert abs(value - float(loss.detach())) <= 0.1 * tolerance * max(abs(float(loss.detach())), 1e-2)
    assert len(ours) == len(maps)
    for a, m in zip(ours, maps):
        reference = np.moveaxis(m.detach().numpy(), 1, -1)
        assert np.abs(a - reference).max() <= 0.1 * tolerance * reference.std() and a.dtype == reference.dtype
    theirs = {names[n]: p.grad for n, p in twin.named_parameters() if n in names}
    assert theirs.keys() == grads.keys()
    floor = 0.01 * tolerance * max(float(g.abs().max()) for g in theirs.values() if g is not None)  # see parity.assert_step_equal
    for name, g in theirs.items():
        g = np.zeros(grads[name].shape) if g is None else g.numpy()
        error = np.abs(grads[name].reshape(g.shape) - g).max()
        assert error <= tolerance * np.abs(g).max() + floor, (name, error, np.abs(g).max())
    moved = {names[n]: b.numpy() for n, b in twin.named_buffers() if "running" in n}
    assert moved.keys() == state.keys()
    for name, b in moved.items():
        np.testing.assert_allclose(state[name], b, rtol=0.1 * tolerance, atol=0.01 * tolerance, err_msg=name)


def _step(model, image, targets, weights):
    """(loss, outputs, gradients in PyTorch's layouts, new state)."""
    network, params, state = functional.split(model)

    def loss(params):
        outputs, new_state = network.apply(params, state, image, Run(train=True, key=jax.random.key(0)))
        maps = [outputs.logits, *outputs.aux]
        return sum(w * jnp.mean(m * t) for w, m, t in zip(weights, maps, targets)), (maps, new_state)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
    # runs once: at this level it compiles in half the time
    (value, (maps, new_state)), grads = step.compile(compiler_options={"xla_backend_optimization_level": 0})(params)
    leaves = dict(zip(network.names, network.leaves))
    return (float(value), [np.asarray(m) for m in maps],
            {n: from_torch.to_layout(np.asarray(g), leaves[n]) for n, g in grads.items()},
            {n: np.asarray(v) for n, v in new_state.items()})
