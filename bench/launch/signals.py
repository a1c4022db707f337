"""Signals by which the user stops a run of cells."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from bench.common.errors import StoppedError

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """A context that counts Ctrl-C and SIGTERM. Only the main thread can enter it.

    `stops` is their number: the first ends the running cell in good order, the second at once.
    """

    def __init__(self) -> None:
        self.stops = 0
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._stop) for number in _STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

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
