"""Check several hosts before a run over them: missing processes, different software, devices, and a sum over all devices."""

import socket
import threading
import time
from collections import Counter

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg.train import mesh as meshes
from jaxseg.train.processes import connect
from jaxseg.types import ConfigError, PeerError
from jaxseg.utils import command

SECONDS = 60.0  # for all of it
JOIN = 30  # of these for all processes to come; one that cannot reach process 0 waits ten more for its answer


def examine(coordinator: str | None, number: int | None, process: int | None) -> int:
    """Print one line for each finding, on every process; all of them run the same command.

    Args:
      coordinator, number, process: as for `connect.connect`; None under Slurm.
    Returns:
      0, or 1 if the sum over all devices is wrong.
    Raises:
      ConfigError: there is only one process.
      PeerError: processes are missing; the message names them.
      MismatchError: the hosts have different software; the message says what differs.
    """
    began = time.monotonic()
    hosts = connect.connect(coordinator, number, process, join=JOIN)
    if len(hosts) < 2:
        raise ConfigError(
            "doctor --distributed is for several processes: give each --coordinator=HOST:PORT --num_processes=N --process_id=I, "
            "or start it with srun; without --distributed it checks this machine alone"
        )
    print(f"roll call: {len(hosts)} processes with equal versions and code after {time.monotonic() - began:.1f} s", flush=True)
    done = threading.Event()

    def late() -> None:
        if not done.wait(max(began + SECONDS - time.monotonic(), 1.0)):
            command.end_now(
                f"a sum over all devices was not finished {SECONDS:g} s after the start of {socket.gethostname()}: the "
                "hosts reach process 0, but not each other; check the network and the firewall between them",
                PeerError.exit_code,
            )

    threading.Thread(target=late, name="examine", daemon=True).start()
    for index, host in sorted(hosts.items()):
        kinds = Counter(f"{d.platform} ({d.device_kind})" for d in jax.devices() if d.process_index == index)
        print(f"process {index} on {host}: " + ", ".join(f"{count} x {kind}" for kind, count in kinds.items()), flush=True)
    begin, found, expected = time.monotonic(), total(), jax.device_count() * (jax.device_count() + 1) // 2
    done.set()
    print(f"sum over {jax.device_count()} devices: {time.monotonic() - begin:.1f} s with compilation", flush=True)
    if found != expected:
        print(f"warning: the sum is {found}, not {expected}; check that the versions of driver, jax and jaxlib fit together")
    return int(found != expected)


def total() -> int:
    """Return the sum of 1, 2, ..., one number on each device of all processes."""
    mesh = meshes.make()
    numbers = np.arange(1, jax.device_count() + 1, dtype=np.int32)
    spread = jax.make_array_from_callback(numbers.shape, meshes.batched(mesh), lambda index: numbers[index])
    return int(jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(spread))
