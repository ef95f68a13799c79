"""Profile a training step on a GPU: the times of its kernels from a trace, and the same step with one setting changed.

python -m jaxseg.bench.gpu.steps segnext_t --trace                # the step as users run it, and its kernels
python -m jaxseg.bench.gpu.steps segnext_t --change=xla           # XLA's own depthwise convolutions
python -m jaxseg.bench.gpu.steps unet3d_s --change=nobarrier      # without optimization barriers
python -m jaxseg.bench.gpu.steps unet3d_s --change=nchw           # channels first in 3-D convolutions, XLA's default
python -m jaxseg.bench.gpu.steps segnext_t --change=untuned       # no autotuning of algorithms and tiles: compiles faster
python -m jaxseg.bench.gpu.steps segnext_t --change=cublas        # matrix products by cuBLAS alone, none by Triton
python -m jaxseg.bench.gpu.steps segnext_t --change=nographs      # every kernel launched separately, no CUDA graphs
python -m jaxseg.bench.gpu.steps segnext_t --change=float32       # float32 with TF32 instead of bfloat16
"""

import argparse
import collections
import glob
import json
import os
import tempfile
import time

from jaxseg.utils.process import NHWC, convolve_channels_last

CHANGES = {
    "": {},
    "xla": {"JAXSEG_CONV": "xla"},
    "pallas": {"JAXSEG_CONV": "pallas"},
    "nobarrier": {},
    "float32": {},
    "cublas": {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
    "nographs": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
    "nchw": {"XLA_FLAGS": f"{NHWC}=false"},
    "untuned": {"XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"},
}
TOP = 15  # number of kernels to list


def measured(name: str, change: str, quick: bool, trace: bool) -> dict:
    """Milliseconds of a step, seconds to compile it, memory, and the times of its kernels."""
    import jax

    from jaxseg.bench import clock, machine
    from jaxseg.bench.gpu import lanes
    from jaxseg.bench.side import Options
    from jaxseg.bench.suites import models
    from jaxseg.models import create_model, functional

    if change == "nobarrier":
        jax.lax.optimization_barrier = lambda tree: tree
    options = Options(folder="", gpu=jax.default_backend() == "gpu", quick=quick, peers=False, modes=())
    case = models.CASES[name]
    network, params, state = functional.split(create_model(name, **models.case_options(name, options)))
    image, mask = map(jax.numpy.asarray, models.arrays(case.shape(options), case.classes))
    dtype = "float32" if change == "float32" or not options.gpu else "bfloat16"
    call = models.step_call(
        network, params, state, image, mask, case.classes, dtype, machine.Peak(options.gpu, compiles=True), {}, aux=case.aux
    )
    with lanes.alone():
        ms = clock.interleaved({"step": lambda runs: clock.block(call.run, runs, call.finish)}, seconds=0.1 if quick else 2.0)
        kernels = traced(call) if trace else {}
    return {
        "network": name,
        "change": change,
        "size": case.shape(options),
        "dtype": dtype,
        "ms": ms["step"][0],
        "leaves": len(params),
        **call.facts,
        **kernels,
    }


def traced(call, steps: int = 5) -> dict:
    """The kernels of a step, the longest first, and the idle time of the device."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(steps):
                result = call.run()
            call.finish(result)
            wall = 1e3 * (time.perf_counter() - start) / steps
        (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
        data = jax.profiler.ProfileData.from_file(path)
        names, counts, lines = collections.Counter(), collections.Counter(), []
        for plane in data.planes:
            if "/device:GPU" not in plane.name:
                continue
            for line in plane.lines:
                lines.append(f"{plane.name} {line.name}")
                if line.name.startswith(("XLA", "Steps", "Framework", "Source", "Launch")):
                    continue  # summaries of what the streams hold
                for event in line.events:
                    names[event.name] += event.duration_ns / 1e6 / steps
                    counts[event.name] += 1 / steps
    busy = sum(names.values())
    kinds = collections.Counter()
    for kernel, ms in names.items():
        kinds[kind(kernel)] += ms
    return {
        "trace_wall_ms": wall,
        "busy_ms": busy,
        "launches": sum(counts.values()),
        "lines": sorted(set(lines)),
        "kinds": {k: round(v, 3) for k, v in kinds.most_common()},
        "kernels": [(kernel[:120], round(ms, 3), round(counts[kernel], 1)) for kernel, ms in names.most_common(TOP)],
    }


def kind(kernel: str) -> str:
    """The kind of a kernel, from its name."""
    lower = kernel.lower()
    for part, found in (
        ("memcpy", "copies"),
        ("memset", "copies"),
        ("nchwtonhwc", "layout"),
        ("nhwctonchw", "layout"),
        ("transpose", "transposes"),
        ("copy", "copies"),
        ("depthwise", "our depthwise"),
        ("fmha", "attention"),
        ("flash", "attention"),
        ("sdpa", "attention"),
        ("wgrad", "cuDNN"),
        ("dgrad", "cuDNN"),
        ("fprop", "cuDNN"),
        ("conv", "cuDNN"),
        ("cudnn", "cuDNN"),
        ("gemm", "products"),
        ("cutlass", "cuDNN or products"),
        ("nvjet", "products"),
        ("reduce", "reductions"),
        ("scatter", "scatters"),
        ("gather", "gathers"),
        ("fusion", "fusions"),
    ):
        if part in lower:
            return found
    return "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--change", default="", choices=sorted(CHANGES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--results", default="", help="file to which the figures are appended as a line of JSON")
    options = parser.parse_args()
    os.environ.update(CHANGES[options.change])
    convolve_channels_last()
    found = {"stage": "steps", **measured(options.name, options.change, options.quick, options.trace)}
    print(json.dumps(found, indent=1), flush=True)
    if options.results:
        with open(options.results, "a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
