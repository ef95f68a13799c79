"""Properties of the GPU: versions, memory bandwidth of a copy, speed of matrix products in bfloat16, TF32 and float32."""

import argparse
import json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", default="")
    options = parser.parse_args()
    import jax

    from jaxseg.bench import machine
    from jaxseg.bench.gpu import lanes
    from jaxseg.bench.gpu.kernels import copy_rate
    from jaxseg.bench.side import Options
    from jaxseg.bench.suites.models import matmul_rate

    about = Options(folder="", gpu=jax.default_backend() == "gpu", quick=options.quick, peers=False, modes=())
    with lanes.alone():
        found = {
            "stage": "machine",
            **machine.describe(),
            "device": jax.devices()[0].device_kind,
            "cudnn": _cudnn(),
            "copy_TB_s": copy_rate(2**16 if options.quick else 2**29) / 1e12,
            "bf16_tflops": matmul_rate("bfloat16", about) / 1e12,
            "tf32_tflops": matmul_rate("float32", about) / 1e12,
        }
        with jax.default_matmul_precision("highest"):
            found["float32_tflops"] = matmul_rate("float32", about) / 1e12
    print(json.dumps(found, indent=1), flush=True)
    if options.results:
        with open(options.results, "a") as file:
            file.write(json.dumps(found) + "\n")


def _cudnn() -> str:
    try:
        from jax._src.lib import cuda_versions  # private: jax prints this version in errors alone

        return str(cuda_versions.cudnn_get_version())
    except Exception:
        return ""


if __name__ == "__main__":
    main()
