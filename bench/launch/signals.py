"""Signals that a run of cells waits for: the end of a child, and a stop by the user."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from bench.common.errors import StoppedError

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """A context that counts Ctrl-C and SIGTERM, and wakes a runner that waits.

    `stops` is their number: the first ends the running cell in good order, the second at once. Only
    the main thread can enter it.
    """

    def __init__(self) -> None:
        self.stops = 0
        self.fd = -1
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self.fd, self._written = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._written, False)
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        for number in _STOPPING:
            self._before[number] = signal.signal(number, self._stop)
        # without a handler, the end of a child would not wake the runner
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._written)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1
        if self._raises:
            raise StoppedError

    @contextmanager
    def raising(self) -> Iterator[None]:
        """A context for calls that sleep in the kernel: a stop by the user raises StoppedError."""
        before, self._raises = self._raises, True
        try:
            if self.stops:
                raise StoppedError
            yield
        finally:
            self._raises = before

    def drain(self) -> None:
        """Discard the bytes that woke the runner."""
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
