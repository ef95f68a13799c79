"""Several processes of jaxseg on this machine, as one run: python launch/local.py --processes=2 -- --config=... [flags].

Everything after `--` goes to `python -m jaxseg.main` in each process. SIGTERM and Ctrl-C are passed on; when one process
ends badly the others are ended too, and its exit code is returned.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import time


def free_port() -> int:
    """A free TCP port below those that the system gives to connections by itself, so that it is still free when it is used."""
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("100 ports between 20000 and 32768 are all in use")


def main() -> int:
    """Start, watch, pass signals on, return the first bad exit code (0 when all are good)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, required=True, help="how many processes")
    parser.add_argument("--cpu_devices", type=int, default=0, help="fake CPU devices of each process (0: the real devices)")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds the others get after one has failed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- flags of jaxseg.main")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error(f"--processes={options.processes}: must be at least 1")
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    environment = dict(os.environ)
    if options.cpu_devices:
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = (
            f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={options.cpu_devices}"
        ).strip()
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jaxseg.main",
                *arguments,
                f"--coordinator={coordinator}",
                f"--num_processes={options.processes}",
                f"--process_id={i}",
            ],
            env=environment | ({"CUDA_VISIBLE_DEVICES": str(i)} if _one_gpu_each(options) else {}),
        )
        for i in range(options.processes)
    ]

    def forward(signum, frame):
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    return _watch(processes, options.grace)


def _one_gpu_each(options) -> bool:
    return not options.cpu_devices and "CUDA_VISIBLE_DEVICES" not in os.environ and os.path.exists("/dev/nvidia0")


def _watch(processes: list[subprocess.Popen], grace: float) -> int:
    deadline, first = None, 0
    while any(p.poll() is None for p in processes):
        bad = [p.returncode for p in processes if p.returncode]
        if bad and deadline is None:
            first, deadline = bad[0], time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.2)
    code = first or next((p.returncode for p in processes if p.returncode), 0)
    return code if code >= 0 else 128 - code  # ended by a signal, as shells say it


if __name__ == "__main__":
    sys.exit(main())
