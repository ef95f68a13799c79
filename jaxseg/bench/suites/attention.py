"""Attention with a trained bias, as in Swin's windows of 7^3 = 343 positions, against PyTorch's scaled_dot_product_attention.

On a CPU in float32 (for GPUs see `bench.gpu.kernels`). "forward" is inference; "gradients" is the forward pass and the gradients
of queries, keys, values and bias.
"""

from jaxseg.bench import peers
from jaxseg.bench.side import Options, TimedCall

WORKS = ("forward", "gradients")


def sizes(options: Options) -> tuple[int, int, int, int]:
    """Numbers of windows, positions and heads, and the size of a head."""
    return (8, 27, 2, 8) if options.quick else (125, 343, 3, 8)


def arrays(options: Options):
    """q, k, v and the gradient of the result [B, T, heads, d], and the bias [1, heads, T, T]."""
    import numpy as np

    b, t, h, d = sizes(options)
    rng = np.random.default_rng(0)
    return (
        *(rng.normal(size=(b, t, h, d)).astype(np.float32) for _ in range(4)),
        rng.normal(size=(1, h, t, t)).astype(np.float32),
    )


def ours(work: str, options: Options) -> TimedCall:
    """`ops.attention` under jit."""
    import jax
    import numpy as np

    from jaxseg import ops
    from jaxseg.bench import machine
    from jaxseg.bench.suites.models import compiled

    q, k, v, grad, bias = jax.device_put(arrays(options))
    attend = lambda q, k, v, bias: ops.attention(q, k, v, bias=bias)
    backward = lambda q, k, v, bias, grad: jax.vjp(attend, q, k, v, bias)[1](grad)
    given = (q, k, v, bias) if work == "forward" else (q, k, v, bias, grad)
    made = compiled(jax.jit(attend if work == "forward" else backward), given, machine.Peak(options.gpu, compiles=True), {})
    np.save(options.path(f"{work}.ours.npy"), _flat(made.run()))
    return made


def peer(work: str, options: Options) -> TimedCall:
    """PyTorch's attention, with the kernel that it chooses."""
    import contextlib

    import numpy as np
    import torch

    peers.threads()
    *given, bias = map(torch.from_numpy, arrays(options))
    q, k, v, grad = (a.transpose(1, 2).contiguous() for a in given)
    train = work == "gradients"
    wanted = [a.requires_grad_(train) for a in (q, k, v, bias)]

    def run():
        with contextlib.nullcontext() if train else torch.inference_mode():
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            return torch.autograd.grad(out, wanted, grad) if train else (out,)

    found = [a.detach().numpy() for a in run()]
    np.save(options.path(f"{work}.peer.npy"), _flat([a.swapaxes(1, 2) if i < 3 else a for i, a in enumerate(found)]))
    return TimedCall(run, peers.finish(options), {"mode": "PyTorch, scaled_dot_product_attention"})


def _flat(results):
    import numpy as np

    results = results if isinstance(results, (list, tuple)) else [results]
    return np.concatenate([np.asarray(a).ravel() for a in results])
