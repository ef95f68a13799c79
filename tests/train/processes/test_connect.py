"""How processes find each other: what is passed to jax, and what is refused before that."""

import socket
import subprocess
import sys

import jax
import pytest

from jaxseg.train.processes import connect as module
from jaxseg.train.processes.connect import connect, slurm_address, together
from jaxseg.types import ConfigError, DataError, PeerError


@pytest.fixture
def calls(monkeypatch):
    """The arguments of jax.distributed.initialize, which is not run; without variables of a cluster."""
    found = []
    monkeypatch.setattr(module.roll_call, "call", lambda *args: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: found.append((args, options)))
    monkeypatch.setattr(module, "_end_aborts_with_75", lambda: None)
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize("address", ["127.0.0.1:1234", "localhost:1234", "0.0.0.0:1234"])
@pytest.mark.fault("P12")
def test_process_0_listens_on_the_address_given_alone(calls, address):
    connect(address, 2, 0)
    ((args, options),) = calls
    assert args == (address, 2, 0, None) and options["coordinator_bind_address"] == address


def test_an_address_that_process_0_cannot_listen_on_is_refused(calls):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "192.0.2.1:1234", "no.such.host.invalid:1234"):
            with pytest.raises(ConfigError, match="cannot listen there"):
                connect(address, 2, 0)
        connect(f"127.0.0.1:{port}", 2, 1)  # process 1 does not listen
    assert len(calls) == 1


@pytest.mark.parametrize("in_cluster", [True, False])
def test_in_a_cluster_the_name_of_a_pod_that_has_just_started_is_looked_up_again(calls, monkeypatch, in_cluster):
    """First it is unknown, then it leads to the pod before it."""
    look_up = socket.getaddrinfo
    answers = iter((socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "192.0.2.1", "127.0.0.1"))

    def answer(host, *arguments, **options):
        found = next(answers)
        if isinstance(found, OSError):
            raise found
        return look_up(found, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(module, "_RETRY", 0.0)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_cluster:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        connect("jaxseg-0.jaxseg:1234", 2, 0)
    else:
        with pytest.raises(ConfigError, match="Name or service not known"):
            connect("jaxseg-0.jaxseg:1234", 2, 0)
    assert len(calls) == in_cluster


@pytest.mark.parametrize(
    "error, lost",
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:1"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: tasks are unhealthy"), True),
        (RuntimeError("NCCL operation failed"), True),
        (ValueError("got 3"), False),
        (TypeError("Gloo"), False),
        (DataError("timed out"), False),
    ],
    ids=str,
)
def test_what_a_collective_raises_for_a_lost_process_is_code_75(monkeypatch, error, lost):
    def work():
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(PeerError if lost else type(error)):
        together(work)
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    with pytest.raises(type(error)):
        together(work)


LOST_TWICE = """
import os
from jaxseg.train.processes import connect
from jaxseg.types import PeerError
from jaxseg.utils import command
def main():
    connect._end_aborts_with_75()
    raise PeerError("a collective failed")
command.run("jaxseg", main, leave=lambda code: os.abort())
"""


def test_a_loss_that_a_collective_and_jaxs_service_notice_is_said_once():
    done = subprocess.run([sys.executable, "-c", LOST_TWICE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (75, "jaxseg: a collective failed\n")


def test_the_limits_of_a_config_are_those_of_jax_and_of_the_roll_call(calls, monkeypatch):
    called = []
    monkeypatch.setattr(module.roll_call, "call", lambda *args: called.append(args[:4]))
    connect("127.0.0.1:1234", 2, 1, join=7, heartbeat=9)
    ((_, options),) = calls
    assert options["heartbeat_timeout_seconds"] == 9 and called == [("127.0.0.1:1234", 2, 1, 7)]
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for name, value in (("PROCID", "1"), ("JOB_ID", "5"), ("STEP_NODELIST", "n[1-2]"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    connect(None, None, None)
    assert called[1][3] == module.SLURM_SECONDS


def test_one_process_joins_no_other(calls):
    connect(None, None, None)
    assert not calls


@pytest.mark.parametrize(
    "given, words",
    [
        (("host:1", 2, None), "given together"),
        ((None, 2, 1), "given together"),
        (("host:1", 0, 0), "at least 1"),
        (("host:1", 2, 2), "0..1"),
        (("host", 2, 0), "HOST:PORT"),
        ((":12", 2, 0), "HOST:PORT"),
        (("host:99999", 2, 0), "HOST:PORT"),
        (("host:x", 2, 0), "HOST:PORT"),
        (("0.0.0.0:1234", 2, 1), "it can reach"),
        (("[::]:1234", 2, 1), "it can reach"),
    ],
)
def test_what_cannot_be_is_refused(calls, given, words):
    with pytest.raises(ConfigError, match=words):
        connect(*given)
    assert not calls


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("a-b[7]", "a-b7"),
        ("a,b[1-3]", "a"),
    ],
)
def test_the_first_node_of_slurms_list_is_process_0(nodes, first):
    assert slurm_address(nodes, 5) == f"{first}:61445" and slurm_address(nodes, 4095 + 4096) == f"{first}:65535"


@pytest.mark.parametrize("tasks, local", [("1(x2)", None), ("4(x2)", [3]), ("2,1", [3])])
def test_a_task_of_slurm_takes_all_devices_of_its_node_or_its_own(calls, monkeypatch, tasks, local):
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "3",
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }.items():
        monkeypatch.setenv(name, value)
    connect(None, None, None)
    ((args, options),) = calls
    assert args == ("n1:61447", 2, 1, local) and options["coordinator_bind_address"] == "n1:61447"
