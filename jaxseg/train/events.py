"""Write TensorBoard event files, record by record, in the calling thread.

tensorboardX passes records to a writer thread through a queue of ten: when the disk is full the thread dies, and the eleventh
record blocks for ever. Here a disk error loses the record, and nothing else.
Format: tensorboard/compat/proto/event.proto in TFRecord framing (length, its CRC-32C, content, its CRC-32C).
"""

import itertools
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# tensorboardX imports PyTorch where it is installed, for the name of a type that is not written here: seconds of every start.
_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None
try:
    from tensorboardX import summary
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto import event_pb2
finally:
    if _hidden:
        del sys.modules["torch"]

_number = itertools.count()  # of the files of this process


class Events:
    """One event file.

    Args:
      folder: created if it does not exist.
      step: events at or after this step in the folder's older files are discarded; 0: keep all.
      warn: called with a line of text when records cannot be written, once for each series of failures.
    Raises:
      OSError: the folder or file cannot be created.
    """

    def __init__(self, folder: Path, *, step: int = 0, warn: Callable[[str], None] = print):
        folder.mkdir(parents=True, exist_ok=True)
        self._warn, self._failed, self._end = warn, False, 0
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self._file = open(folder / name, "ab", buffering=0)  # noqa: SIM115 -- stays open, see close
        self._put(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._put(event_pb2.Event(wall_time=time.time(), step=step, session_log=start))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write one value of a curve."""
        self._summary(summary.scalar(name, value), step)

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Write a Markdown text."""
        self._summary(summary.text(name, text), step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Write an RGB picture, uint8 [H, W, 3]."""
        self._summary(summary.image(name, image, dataformats="HWC"), step)

    def results(self, settings: dict[str, bool | int | float | str], scores: dict[str, float], step: int) -> None:
        """Write hyperparameters and final scores: the records of the HParams plugin, and a scalar for each score."""
        for record in summary.hparams(settings, scores):
            self._summary(record, step)
        for name, value in scores.items():
            self.scalar(name, value, step)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def _summary(self, content, step: int) -> None:
        self._put(event_pb2.Event(wall_time=time.time(), step=step, summary=content))

    def _put(self, event: event_pb2.Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        record = length + _masked(length) + data + _masked(data)
        try:
            self._write(record)
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._end)  # half a record would hide all that follow
            if not self._failed:
                self._warn(
                    f"TensorBoard events cannot be written ({error.strerror or error}); training continues; free disk space"
                )
            self._failed = True
        else:
            self._end += len(record)
            if self._failed:
                self._warn("TensorBoard events are written again")
            self._failed = False

    def _write(self, record: bytes) -> None:
        while record:
            record = record[self._file.write(record) :]


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
