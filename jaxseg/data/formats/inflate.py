"""Read plain or gzip-compressed files in limited amounts, and verify their checksums at the end.

A gzip reader that stops at the last byte that it needs never reads the checksum, so that a flipped bit is not noticed. Here the
stream is always read to its end, where zlib compares the CRC-32 and the length of every member.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from jaxseg.data.formats.refusal import refusal

MAGIC = b"\x1f\x8b"
MAX_RATIO = 1032  # deflate codes at most 258 bytes in 2 bits: a longer claim about the content is a lie
_CHUNK = 1 << 16


class Plain:
    """The bytes of an open, uncompressed file."""

    def __init__(self, file: BinaryIO, path: str | Path):
        self.file, self.path = file, path

    def take(self, count: int) -> bytearray:
        """Return the next `count` bytes, fewer at the end of the file; `count` must not exceed the file's size."""
        buffer = bytearray(count)
        got = self.file.readinto(buffer)
        del buffer[got:]
        return buffer


class Gzip:
    """The decompressed bytes of an open gzip file with one or more members.

    Memory grows with the decompressed bytes, not with the number requested.

    Raises (from `take`):
      DataError: the file ends inside a member (DATA_TRUNCATED); the stream is damaged, its CRC-32 or length is wrong, or there
        are bytes after the last member (DATA_CRC).
    """

    def __init__(self, file: BinaryIO, path: str | Path):
        self.file, self.path = file, path
        self._inflater, self._pending = zlib.decompressobj(31), b""  # 31: gzip wrapper, 32 kB window

    def take(self, count: int) -> bytearray:
        """Return the next `count` decompressed bytes, fewer only if the file ended correctly before them."""
        out = bytearray()
        while len(out) < count:
            piece = self._inflate(min(count - len(out), 16 * _CHUNK))
            if not piece:
                break
            out += piece
        return out

    def _inflate(self, limit: int) -> bytes:
        """Return between 1 and `limit` bytes; b"" at the end of the last member."""
        while True:
            if self._inflater.eof:
                rest = self._inflater.unused_data or self.file.read(_CHUNK)
                if not rest:
                    return b""
                if not rest.startswith(MAGIC):
                    raise refusal(
                        "DATA_CRC",
                        self.path,
                        "bytes follow the end of the gzip stream",
                        "a .gz file ends with its checksum",
                        "copy or export the file again",
                    )
                self._inflater, self._pending = zlib.decompressobj(31), rest
            data = self._pending or self.file.read(_CHUNK)
            try:
                piece = self._inflater.decompress(data, limit)
            except zlib.error as error:
                raise refusal(
                    "DATA_CRC",
                    self.path,
                    f"damaged gzip stream ({str(error).rpartition(': ')[2]})",
                    "content and checksum must agree",
                    "copy or export the file again",
                ) from None
            self._pending = self._inflater.unconsumed_tail
            if piece:
                return piece
            if not data and not self._inflater.eof:
                raise refusal(
                    "DATA_TRUNCATED",
                    self.path,
                    "the gzip stream stops before its end",
                    "a .gz file ends with its checksum",
                    "copy or export the file again",
                )
