"""A limit on the time that a process spends compiling its model."""

import os
from pathlib import Path
from threading import Timer
from typing import Final

from bench.peers.request import ANSWER, COMPILE_TIMEOUT
from bench.worker.__main__ import write_result

STEPS: Final = 5
"""Steps during which code is compiled: the first, and one for each timing batch."""


class CompileLimit:
    """Ends this process, with a result that says so, if its first steps take too long.

    A compiler can't be interrupted from its own thread, so a timer runs in another one.

    Args:
        folder: the folder for the result.
        seconds: the limit from `begin` to the last of `STEPS` steps; None: no limit.
    """

    def __init__(self, folder: Path, seconds: float | None) -> None:
        self._folder = folder
        self._seconds = seconds
        self._timer: Timer | None = None
        self._steps = 0

    def begin(self) -> None:
        """Start the limit, before the first step."""
        self.end()
        if self._seconds is not None:
            self._steps = 0
            self._timer = Timer(self._seconds, self._exit)
            self._timer.daemon = True
            self._timer.start()

    def step(self) -> None:
        """Count a finished step."""
        self._steps += 1
        if self._steps >= STEPS:
            self.end()

    def end(self) -> None:
        """Lift the limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _exit(self) -> None:
        write_result(self._folder, "ok", "", {ANSWER: {COMPILE_TIMEOUT: self._seconds}})  # type: ignore[dict-item]
        os._exit(0)
