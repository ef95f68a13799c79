"""Connect several processes to one run, before any device is used: by flags, JAXSEG_* variables, or Slurm's variables.

If a process does not start, dies or cannot be reached, all others end with a one-line message and exit code 75. jax itself would
abort the process (code 134) in all of these cases; if a collective operation fails first, jax raises an error.
"""

import ctypes
import errno
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import jax

from jaxseg.train.processes import roll_call
from jaxseg.train.processes.interrupt import PREEMPTED, fault
from jaxseg.types import ConfigError, JaxsegError, PeerError
from jaxseg.utils import command
from jaxseg.utils.machine.cores import cores

JOIN_SECONDS, SLURM_SECONDS = 120.0, 300.0  # for all processes to come; config.mesh.join is another limit
HEARTBEAT = 100  # seconds without a sign of life after which jax counts a process as lost
_LOST = re.compile(
    r"gloo|nccl|coordination|UNAVAILABLE|DEADLINE_EXCEEDED|connection (closed|reset|refused)|heartbeat|"
    r"broken pipe|timed out",
    re.IGNORECASE,
)
EVERYWHERE = ("0.0.0.0", "[::]")
_RETRY = 1.0  # seconds between two look-ups of a name
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")


def connect(
    coordinator: str | None,
    number: int | None,
    process: int | None,
    *,
    join: float = 0,
    heartbeat: int = HEARTBEAT,
    config: Mapping[str, object] | None = None,
    same_sums: bool = False,
) -> dict[int, str]:
    """Connect to the other processes, if there are any.

    Args:
      coordinator: HOST:PORT of process 0, which listens on this address only. To listen on all addresses of its machine, give
        process 0 itself 0.0.0.0:PORT, and the others the address that reaches it.
      number: number of processes.
      process: index of this process, from 0.
      join: seconds within which all must have connected; 0: 120, with Slurm 300.
      heartbeat: seconds without a sign of life after which a process counts as lost.
      config: dotted keys and values that must be equal on all processes.
      same_sums: where CPUs pretend several devices, the bits shall not depend on the number of processes that drive these. One
        process then adds up as several do, in the order of gloo's ring, and all have as many threads, which divide a sum.
    Returns:
      The host of each process; {} if there is only this one.
    Raises:
      ConfigError: an argument is missing or invalid.
      PeerError, MismatchError: as `roll_call.call`.
    """
    if same_sums and (told := _pretended()):
        os.environ.setdefault("PJRT_NPROC", str(max(cores(), told * (number or 1))))  # XLA's threads; it has one for each device
    given = (coordinator, number, process)
    if any(v is not None for v in given):
        _check(*given)
        return _join(coordinator, number, process, seconds=join or JOIN_SECONDS, heartbeat=heartbeat, config=config)
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and all(name in os.environ for name in _SLURM):
        address = slurm_address(os.environ["SLURM_STEP_NODELIST"], int(os.environ["SLURM_JOB_ID"]))
        shared = int(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0]) > 1
        local = [int(os.environ["SLURM_LOCALID"])] if shared else None  # one device for each task of a node, or all of them
        number, process = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_PROCID"])
        return _join(address, number, process, local, seconds=join or SLURM_SECONDS, heartbeat=heartbeat, config=config)
    if same_sums and _pretended() > 2:  # the sum of two is the same in any order
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        return _join(address, 1, 0, heartbeat=heartbeat)
    return {}


def _pretended() -> int:
    """Return the number of devices that this process's CPU is told to pretend; 0: it is told nothing."""
    told = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return max(jax.config.jax_num_cpu_devices, *map(int, told[-1:]), 0)


def together(work: Callable[[], int | None]) -> int | None:
    """Run `work`; errors that a collective operation raises because another process is gone become a PeerError."""
    try:
        return work()
    except JaxsegError:
        raise
    except Exception as error:
        if jax.process_count() > 1 and isinstance(error, RuntimeError | ValueError) and _LOST.search(str(error)):
            raise PeerError(
                f"another process was lost: {' '.join(str(error).split())[:200]}; read its messages, end all "
                "processes and start them again"
            ) from error
        raise


def leave(code: int) -> NoReturn:
    """Call `sys.exit`; after an error with several processes, end at once instead, because a normal exit waits for the others."""
    if code not in (0, PREEMPTED) and _joined:
        os._exit(code)
    sys.exit(code)


_joined: list = []  # what the signal handler must keep alive


def _join(
    address: str,
    number: int,
    process: int,
    local: list[int] | None = None,
    *,
    seconds: float = JOIN_SECONDS,
    heartbeat: int = HEARTBEAT,
    config: Mapping[str, object] | None = None,
) -> dict[int, str]:
    """Call the roll, then jax.distributed.initialize; end with code 75 if not all processes have joined in time."""
    fault(process, "before_join")
    if process == 0:
        _check_free(address, seconds)
    hosts = roll_call.call(address, number, process, seconds, roll_call.about(config)) if number > 1 else {}
    there = threading.Event()

    def late() -> None:
        if not there.wait(seconds):
            command.end_now(
                f"process {process} at {address}: not all {number} processes joined within {seconds:g} s; end all "
                "processes, check that each is started with this address, and start them again",
                PeerError.exit_code,
            )

    threading.Thread(target=late, name="join", daemon=True).start()
    if number > 1:
        _end_aborts_with_75()
    # deactivate: a process drives all devices that it sees, also where a cluster's variables are set
    jax.distributed.initialize(
        address,
        number,
        process,
        local,
        coordinator_bind_address=address,
        initialization_timeout=int(seconds) + 3600,
        heartbeat_timeout_seconds=heartbeat,
        cluster_detection_method="deactivate",
    )
    there.set()
    return hosts


def _check_free(address: str, seconds: float) -> None:
    """Refuse an address on which process 0 cannot listen: jax's service would abort the process.

    In a Kubernetes cluster the name of a pod that has just started may be unknown for a while, or still lead to the pod before
    it: there it is looked up again for so many seconds, because a refusal would end the job for good.
    """
    host, _, port = address.rpartition(":")
    until = time.monotonic() + (seconds if "KUBERNETES_SERVICE_HOST" in os.environ else 0)
    while True:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
            return
        except OSError as error:
            name = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            if not name or time.monotonic() >= until:
                raise ConfigError(
                    f"--coordinator={address}: process 0 cannot listen there ({error.strerror or error}); give an address "
                    "of this machine with a free port, or 0.0.0.0:PORT to listen on all of its addresses"
                ) from error
        time.sleep(_RETRY)


def _end_aborts_with_75() -> None:
    """Turn the abort() with which jax's service thread ends a process whose peer is lost into a one-line message and code 75.

    The handler is the C library's, because Python's run in the main thread, which is waiting.
    """

    def ended(number: int) -> None:
        line = "jaxseg: another process was lost, or does not answer; end all processes and start them again"
        command.last_line(line, directly=True)
        os._exit(PeerError.exit_code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    _joined.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def slurm_address(nodes: str, job: int) -> str:
    """Return HOST:PORT of the first node of a Slurm node list ("node[001-004,007],other"); the port depends on the job."""
    head, bracket, rest = nodes.partition("[")
    first = head.partition(",")[0]
    if bracket and "," not in head:
        first = head + rest.replace("-", ",").replace("]", ",").partition(",")[0]
    return f"{first}:{61440 + job % 4096}"


def _check(coordinator: str | None, number: int | None, process: int | None) -> None:
    if coordinator is None or number is None or process is None:
        raise ConfigError(
            "--coordinator, --num_processes and --process_id must be given together (or JAXSEG_COORDINATOR, "
            f"JAXSEG_NUM_PROCESSES, JAXSEG_PROCESS_ID): got {(coordinator, number, process)}"
        )
    if number < 1:
        raise ConfigError(f"--num_processes={number}: must be at least 1")
    if not 0 <= process < number:
        raise ConfigError(f"--process_id={process}: must lie in 0..{number - 1}")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"--coordinator={coordinator}: must be HOST:PORT, such as 10.0.0.5:12345")
    if host in EVERYWHERE and process:
        raise ConfigError(
            f"--coordinator={coordinator}: only process 0 can take an address to listen on, process {process} needs one "
            "that it can reach; give the host name or IP address of process 0's machine"
        )
