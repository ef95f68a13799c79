"""Lowering a function for CUDA on a host that has none; Triton's calls are part of the result."""

import contextlib

import jax
from jax.sharding import AbstractMesh

CALL = "__gpu$xla.gpu.triton"


def _described_gpu():
    """From jax 0.11 on, Triton's lowering asks which GPU it is for."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice

    device = AbstractDevice("NVIDIA H200", None, "gpu")
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


def lowered(function, *arguments: jax.ShapeDtypeStruct, triton: bool = True) -> str:
    """StableHLO text of `function` for CUDA. From jax 0.11 on Triton wants a described GPU, and cuDNN's attention none."""
    checks = [
        jax.export.DisabledSafetyCheck.custom_call(name)
        for name in (
            CALL,
            "__cudnn$fmhaSoftmax",
            "__cudnn$fmhaScaleBiasSoftmax",
            "__cudnn$fmhaSoftmaxBackward",
            "__cudnn$fmhaScaleBiasSoftmaxBackward",
        )
    ]
    with _described_gpu() if triton else contextlib.nullcontext():
        return jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(*arguments).mlir_module()
