"""TensorBoard's files: read back record by record, and a disk that fills costs records and no more."""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jaxseg.train import events
from jaxseg.train.events import Events
from jaxseg.train.log import Log


def records(folder: Path) -> list:
    """The events of all files of a folder, every checksum compared."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            content, sums = data[12 : 12 + length], (data[8:12], data[12 + length : 16 + length])
            assert sums == (events._masked(data[:8]), events._masked(content))
            found.append(event_pb2.Event.FromString(content))
            data = data[16 + length :]
    return found


def test_the_checksum_is_that_of_the_format():
    # first record of a file that TensorFlow wrote: length 24, masked CRC-32C a3 7f 4b 22
    assert events._masked(struct.pack("<Q", 24)) == bytes.fromhex("a37f4b22")


def test_what_is_written_is_read_back(tmp_path):
    file = Events(tmp_path / "events", step=7)
    file.scalar("val/dice", 0.5, 3)
    file.text("note", "words")
    file.picture("panel", np.zeros((4, 6, 3), np.uint8), 9)
    file.close()
    version, start, scalar, text, picture = records(tmp_path / "events")
    assert version.file_version == "brain.Event:2" and start.step == 7 and start.session_log.status == 1
    assert (scalar.step, scalar.summary.value[0].tag, scalar.summary.value[0].simple_value) == (3, "val/dice", 0.5)
    assert text.summary.value[0].tensor.string_val[0] == b"words"
    assert (picture.step, picture.summary.value[0].image.height, picture.summary.value[0].image.width) == (9, 4, 6)


def test_two_logs_of_one_second_have_two_files(tmp_path):
    for log in (Log(tmp_path), Log(tmp_path)):
        log.scalars(1, {"a": 1.0})
    assert len(list((tmp_path / "events").iterdir())) == 2 and len(records(tmp_path / "events")) == 4


def test_a_disk_that_fills_costs_records_and_is_reported_once(tmp_path, capsys, monkeypatch):
    log, full = Log(tmp_path), []
    write = log._events._file.write

    class File:
        """A file that takes half a record, then no more, while the disk is full."""

        def __getattr__(self, name):
            return getattr(log._events, "_kept", None) and getattr(log._events._kept, name)

        def write(self, data):
            if not full:
                return write(data)
            if len(full) == 1:
                full.append(2)
                return write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    log._events._kept = log._events._file
    log._events._file = File()
    log.scalars(1, {"before": 1.0})
    full.append(1)
    for step in range(2, 40):  # more than any queue would hold
        log.scalars(step, {"lost": 1.0})
    full.clear()
    log.scalars(40, {"after": 1.0})
    assert [e.step for e in records(tmp_path / "events") if e.HasField("summary")] == [1, 40]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "events cannot be written (No space left on device)" in said[0] and "again" in said[1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # lazily: a file of it may be open


@pytest.mark.fault("F14")
def test_a_real_full_disk_stops_neither_events_nor_the_table_of_epochs(small_disk, capsys):
    log = Log(small_disk)
    log.epochs([{"epoch": 1}])
    (small_disk / "filler").write_bytes(bytes(1 << 19))
    with open(small_disk / "filler", "ab", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    for step in range(100):
        log.scalars(step, {"loss": 1.0} | {f"more/{i}": 0.0 for i in range(5)})
    log.epochs([{"epoch": 1}, {"epoch": 2}])
    assert (small_disk / "epochs.csv").read_text().split() == ["epoch", "1"]
    (small_disk / "filler").unlink()
    log.scalars(100, {"loss": 1.0})
    log.epochs([{"epoch": 1}, {"epoch": 2}, {"epoch": 3}])
    assert (small_disk / "epochs.csv").read_text().split() == ["epoch", "1", "2", "3"]
    steps = [e.step for e in records(small_disk / "events") if e.HasField("summary")]
    assert steps[-1] == 100 and steps == sorted(steps) and len(steps) < 601
    said = capsys.readouterr().out
    assert said.count("events cannot be written") == 1 and said.count("events are written again") == 1
    assert said.count("epochs.csv") == 1 and not list(small_disk.glob(".*.tmp"))
