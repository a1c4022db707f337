"""A worker's output in a file of bounded size: all of it, or its head and its tail.

The file is complete and in order at any moment, also when the parent dies.
"""

import os
from pathlib import Path
from typing import Final

HEAD: Final = 2**18
"""Bytes kept of the beginning."""
TAIL: Final = 2**18
"""Bytes kept of the end: at least these, at most twice as many."""


class Output:
    """A file that never grows beyond `HEAD` and twice `TAIL`, whatever is written.

    Raises:
        OSError: if the file can't be created. Writing raises nothing: what a full disk doesn't take
            is lost, for the result matters more than the output.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._size = 0
        self._tail_at = HEAD
        self._left_out = 0
        self._broken = False

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append output."""
        if self._broken:
            return
        try:
            self._put(data, self._size)
            self._size += len(data)
            if self._size > self._tail_at + 2 * TAIL:
                self._shorten()
        except OSError:
            self._broken = True

    def _shorten(self) -> None:
        """Drop the bytes between the head and the last `TAIL`, and note their number."""
        tail = os.pread(self._descriptor, TAIL, self._size - TAIL)
        self._left_out += self._size - len(tail) - self._tail_at
        note = f"\n[... {self._left_out:,} bytes left out ...]\n".encode()
        self._put(note + tail, HEAD)
        self._tail_at = HEAD + len(note)
        self._size = self._tail_at + len(tail)
        os.truncate(self._descriptor, self._size)

    def _put(self, data: bytes, at: int) -> None:
        left = memoryview(data)
        while left:
            done = os.pwrite(self._descriptor, left, at)
            left, at = left[done:], at + done
