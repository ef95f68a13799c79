"""Before jax connects the processes of a run: check that all are there, with the same software and configuration.

Process 0 listens on the coordinator's address; every other process sends its number, its host and its versions, and all get the
whole list. Every process can therefore name those that are missing and those that differ; jax's own service aborts the process
after its time-out without naming any. The address is free again before jax uses it. Messages are lines of JSON of limited length.
"""

import contextlib
import hashlib
import json
import select
import socket
import time
from collections.abc import Mapping

from jaxseg.programs import conditions
from jaxseg.types import ConfigError, MismatchError, PeerError

LONGEST = 1 << 20  # bytes of a process's line
_RETRY = 0.25  # seconds between two tries to reach process 0
_TRY = 10.0  # seconds for one try: the name may by now lead to another address, that of a pod that was started anew
_REST = 10.0  # seconds that process 0 may need longer than the others


def about(config: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return what must be equal on all hosts, as short texts: versions, the library's code, every key of the configuration."""
    return conditions.software() | {f"config.{key}": _short(repr(value)) for key, value in (config or {}).items()}


def call(address: str, number: int, process: int, seconds: float, has: Mapping[str, str]) -> dict[int, str]:
    """Return the host of each process once all have connected.

    Args:
      address: HOST:PORT of process 0.
      number: number of processes.
      process: index of this process.
      seconds: time limit for the last process to connect.
      has: texts that must be equal on all hosts, from `about`.
    Raises:
      PeerError: processes are missing, or process 0 cannot be reached; the message names them.
      MismatchError: a process differs from process 0; the message names the difference.
      ConfigError: two processes have the same number, or another number of processes.
    """
    host, _, port = address.rpartition(":")
    me = {"process": process, "of": number, "host": socket.gethostname(), "has": dict(has)}
    place, until = (host.strip("[]"), int(port)), time.monotonic() + seconds
    lines = _answer(place, number, me, until) if process == 0 else _ask(place, me, until, address)
    return _compared(lines, number, seconds, address)


def _compared(lines: list[dict], number: int, seconds: float, address: str) -> dict[int, str]:
    hosts: dict[int, str] = {}
    first = next(line for line in lines if line["process"] == 0)
    for line in sorted(lines, key=lambda line: line["process"]):
        process, host = line["process"], line["host"]
        if process in hosts:
            raise ConfigError(f"--process_id={process} was given on {hosts[process]} and on {host}; give each its own number")
        if line["of"] != number or not 0 <= process < number:
            raise ConfigError(
                f"process {process} on {host} was started with --num_processes={line['of']}, this one with {number}; "
                "give all the same number"
            )
        hosts[process] = host
    missing = [i for i in range(number) if i not in hosts]
    absent = ""
    if missing:
        there = ", ".join(f"{i} on {host}" for i, host in hosts.items())
        absent = (
            f"process{'es' if len(missing) > 1 else ''} {_listed(missing)} of {number} did not connect to {address} within "
            f"{seconds:g} s (here: {there})"
        )
    differ = [
        f"{what} is {line['has'].get(what, 'absent')} on {line['host']} (process {line['process']}) and "
        f"{first['has'].get(what, 'absent')} on {first['host']} (process 0)"
        for line in lines
        for what in sorted(first["has"].keys() | line["has"].keys())
        if line["has"].get(what) != first["has"].get(what)
    ]
    if differ:  # named first: a new start with all of them would end the same way
        more = f"; {len(differ) - 5} more" if len(differ) > 5 else ""
        raise MismatchError(
            f"the processes differ: {'; '.join(differ[:5])}{more}; give all the same environment and command"
            + (f"; moreover, {absent}" if absent else "")
        )
    if absent:
        of_a_run = any(what.startswith("config.") for what in first["has"])  # doctor has no keys
        longer = ", or give more time with config.mesh.join" if of_a_run else ""
        raise PeerError(f"{absent}; check the address of each and start them again{longer}")
    return hosts


def _short(text: str) -> str:
    """Shorten a text to at most 80 characters, with a digest that keeps different texts different."""
    return text if len(text) <= 80 else f"{text[:60]}... ({hashlib.blake2b(text.encode(), digest_size=8).hexdigest()})"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _answer(place: tuple[str, int], number: int, me: dict, until: float) -> list[dict]:
    """Process 0: receive the lines of the others until all have connected or the time is over, then send the list to all."""
    family = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0][0]
    lines, waiting, half = [me], [], {}
    with socket.create_server(place, family=family, backlog=min(number + 16, 4096)) as server:
        while len(lines) < number and (left := until - time.monotonic()) > 0:
            for ready in select.select([server, *half], [], [], left)[0]:
                if ready is server:
                    half[server.accept()[0]] = b""
                    continue
                text = _received(ready)
                half[ready] += text
                if text and not half[ready].endswith(b"\n") and len(half[ready]) < LONGEST:
                    continue
                line = _line(half.pop(ready))
                if line is None:  # another program: a port scan, a health check
                    ready.close()
                else:
                    lines.append(line)
                    waiting.append(ready)
    reply = json.dumps(lines).encode() + b"\n"
    for other in [*waiting, *half]:
        with contextlib.suppress(OSError), other:
            other.settimeout(_REST)
            other.sendall(reply)
    return lines


def _ask(place: tuple[str, int], me: dict, until: float, address: str) -> list[dict]:
    """Another process: send this process's line to process 0, and wait for its list."""
    why = "no answer"
    while True:
        try:
            with socket.create_connection(place, timeout=min(max(until - time.monotonic(), 1.0), _TRY)) as server:
                server.sendall(json.dumps(me).encode() + b"\n")
                server.settimeout(max(until - time.monotonic(), 0) + _REST)
                text = b""
                while not text.endswith(b"\n") and (piece := server.recv(1 << 16)):
                    text += piece
                if text.endswith(b"\n"):
                    return json.loads(text)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > until:
            raise PeerError(
                f"process {me['process']} on {me['host']} cannot reach process 0 at {address} ({why}); start process 0, check "
                "the address and the network between the hosts"
            )
        time.sleep(_RETRY)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def _line(text: bytes) -> dict | None:
    """Return a process's line, or None for anything else."""
    try:
        line = json.loads(text)
        if isinstance(line["process"], int) and isinstance(line["of"], int) and isinstance(line["has"], dict):
            return {**line, "host": str(line["host"])[:100]}
    except (ValueError, KeyError, TypeError):
        pass
    return None
