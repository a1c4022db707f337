"""Signals by which the user stops a run of cells."""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from bench.common.errors import StoppedError

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """A context that counts Ctrl-C, SIGTERM and SIGHUP. Only the main thread can enter it. `stops`
    is their number: the first ends the running cell in good order, the second at once. SIGHUP,
    which comes when a terminal is closed, and often twice, is a first one only. Under `nohup` it
    stays ignored."""

    def __init__(self) -> None:
        self.stops = 0
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        numbers = _STOPPING[:-1] if is_ignored else _STOPPING
        self._before = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            for descriptor in (1, 2):  # whose terminal is closed
                if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            if self.stops:
                return
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
