"""Compare and broadcast values between processes before anything is compiled; no cost with one process."""

import json
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.types import JaxsegError, MismatchError
from jaxseg.utils.files import digest


def same(what: str, value: dict) -> None:
    """Check that a JSON-able value is the same on all processes.

    Args:
      what: a name for the value, for the message.
      value: the value on this process.
    Raises:
      MismatchError: on every process; the message names the processes that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(bytes.fromhex(digest(json.dumps(value, sort_keys=True, default=str))), np.uint8)
    all_of_them = multihost_utils.process_allgather(mine.astype(np.int32))
    others = [i for i, theirs in enumerate(all_of_them) if not np.array_equal(theirs, all_of_them[0])]
    if others:
        raise MismatchError(
            f"processes {others} have another {what} than process 0; start all processes with the same command, code and data"
        )


def all_here(what: str) -> None:
    """Wait until all processes are at this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def on_first(action: Callable):
    """Run `action` on process 0 only; if it raises a JaxsegError there, all processes end with its exit code.

    Returns:
      The result of `action` on process 0, None on the others.
    """
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = action()
        except JaxsegError as raised:
            error = raised
    if jax.process_count() > 1:
        code = int(multihost_utils.broadcast_one_to_all(np.int32(error.exit_code if error else 0)))
        if code and error is None:
            error = JaxsegError("process 0 ended with an error; see its message")
            error.exit_code = code
    if error is not None:
        raise error
    return result


def from_first(value: bool) -> bool:
    """Broadcast the value of process 0 to all processes."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value
