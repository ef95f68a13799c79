"""The roll call of a run's processes: who is missing and who differs is named on every host."""

import concurrent.futures
import socket
import time

import pytest

from jaxseg.train.processes import roll_call
from jaxseg.types import ConfigError, JaxsegError, MismatchError, PeerError
from launch.local import free_port

HAS = {"jax": "1.0", "config.seed": "0"}


def called(processes: dict, seconds: float = 8.0, number: int = 3, before=lambda place: None) -> list:
    """What each process gets: {index: what it has} (a list: several with one index)."""
    place, everyone = f"127.0.0.1:{free_port()}", [(i, has) for i, all_of in processes.items() for has in all_of]

    def one(i: int, has: dict):
        try:
            return roll_call.call(place, has.get("of", number), i, seconds, has)
        except JaxsegError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(everyone)) as pool:
        found = [pool.submit(one, *each) for each in reversed(everyone)]  # process 0 comes last
        before(place)
        return [future.result() for future in found]


def test_all_get_everyones_host_and_strangers_do_no_harm():
    def stranger(place: str) -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                with socket.create_connection(place.split(":")) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n\n")
                return
            except OSError:
                time.sleep(0.05)

    found = called({0: [HAS], 1: [HAS], 2: [HAS]}, before=stranger)
    assert found == [{i: socket.gethostname() for i in range(3)}] * 3


@pytest.mark.parametrize("absent, words", [([2], "process 2 of 3"), ([1, 2], "processes 1, 2 of 3")])
@pytest.mark.fault("F18")
def test_missing_processes_are_named_everywhere(absent, words):
    began = time.monotonic()
    for error in called({i: [HAS] for i in range(3) if i not in absent}, seconds=1.0):
        assert isinstance(error, PeerError) and f"{words} did not connect" in str(error) and "config.mesh.join" in str(error)
    assert time.monotonic() - began < 5
    assert "config." not in str(called({0: [{"jax": "1.0"}]}, seconds=0.1)[0])  # jaxseg doctor has no keys


@pytest.mark.fault("F18")
def test_without_process_0_the_others_say_so():
    for error in called({1: [HAS], 2: [HAS]}, seconds=0.5):
        assert isinstance(error, PeerError) and "cannot reach process 0 at 127.0.0.1" in str(error) and error.exit_code == 75


def test_an_address_that_swallows_everything_is_looked_up_again(monkeypatch):
    """As that of a pod that is gone, to which the name of the new one still leads."""
    connect, tries = socket.create_connection, []

    def swallowed_twice(place, timeout):
        tries.append(timeout)
        if len(tries) < 3:
            raise TimeoutError("timed out")
        return connect(place, timeout)

    monkeypatch.setattr(socket, "create_connection", swallowed_twice)
    assert len(called({0: [HAS], 1: [HAS]}, seconds=60.0, number=2)[0]) == 2
    assert len(tries) >= 3 and max(tries) <= 10


@pytest.mark.parametrize("what", [{"jax": "1.1", "config.seed": "0"}, {"jax": "1.0", "config.seed": "4"}, {"jax": "1.0"}])
@pytest.mark.fault("F19")
def test_what_differs_is_named_everywhere(what):
    for error in called({0: [HAS], 1: [HAS], 2: [what]}):
        (key,) = (k for k in HAS if HAS[k] != what.get(k))
        assert isinstance(error, MismatchError) and error.exit_code == 78
        assert f"{key} is {what.get(key, 'absent')} on" in str(error) and "(process 2) and" in str(error)


@pytest.mark.fault("F19")
def test_of_one_that_is_missing_and_one_that_differs_both_are_named_and_no_new_start_is_asked_for():
    for error in called({0: [HAS], 1: [HAS | {"jax": "1.1"}]}, seconds=1.0):
        assert isinstance(error, MismatchError) and "jax is 1.1 on" in str(error) and "process 2 of 3 did not" in str(error)


def test_numbers_that_are_given_twice_or_differ_are_refused():
    for error in called({0: [HAS], 1: [HAS, HAS]}):
        assert isinstance(error, ConfigError) and "--process_id=1 was given on" in str(error)
    for error in called({0: [HAS], 1: [HAS | {"of": 2}]}, seconds=1.0):
        assert isinstance(error, ConfigError) and "--num_processes=" in str(error)


@pytest.mark.fault("F19")
def test_what_must_be_equal_includes_versions_code_and_every_key():
    long = ["x"] * 100
    assert roll_call.about({"k": [*long, "a"]})["config.k"] != roll_call.about({"k": [*long, "b"]})["config.k"]
    found = roll_call.about({"train.epochs": 3})
    assert {"jax", "jaxlib", "Python", "the code of jaxseg"} <= found.keys() and found["config.train.epochs"] == "3"
