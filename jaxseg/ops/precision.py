"""The dtype in which a network computes on this machine."""

import jax

CHOICES = ("auto", "float32", "bfloat16")


def compute_dtype(wanted: str) -> str:
    """`wanted`, or for "auto" bfloat16 if jax's default device is a GPU or TPU, and float32 on a CPU."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if jax.default_backend() in ("gpu", "tpu") else "float32"


def describe(dtype: str) -> str:
    """One line about computing in `dtype` on this machine."""
    device, kind = jax.default_backend(), jax.devices()[0].device_kind
    if dtype == "bfloat16":
        return f"computing in bfloat16 on {kind}; parameters, statistics, softmax and losses stay in float32"
    if device == "gpu":
        return (
            f"computing in float32 on {kind}: products round their inputs to TF32 (10 bits), and attention has no fused "
            "kernels; --config.train.dtype=bfloat16 is faster"
        )
    return f"computing in float32 on {kind}"
