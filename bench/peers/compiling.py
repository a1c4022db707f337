"""A limit on the time that a process spends on compiling its model."""

import os
from pathlib import Path
from threading import Timer
from typing import Final

from bench.peers.request import ANSWER, COMPILE_TIMEOUT
from bench.worker.__main__ import write_result

STEPS: Final = 5
"""Steps during which code is compiled: the first, and one for each batch of a panel."""


class CompileLimit:
    """Ends this process if its first steps take too long; the result that it leaves says so.

    A compiler can't be interrupted from its own thread, so another one waits.

    Args:
        folder: where the result goes.
        seconds: from `begin` to the last of `STEPS` steps; None: no limit.
    """

    def __init__(self, folder: Path, seconds: float | None) -> None:
        self._folder = folder
        self._seconds = seconds
        self._timer: Timer | None = None
        self._steps = 0

    def begin(self) -> None:
        """The first step comes next."""
        self.end()
        if self._seconds is not None:
            self._steps = 0
            self._timer = Timer(self._seconds, self._leave)
            self._timer.daemon = True
            self._timer.start()

    def step(self) -> None:
        """A step is done."""
        self._steps += 1
        if self._steps >= STEPS:
            self.end()

    def end(self) -> None:
        """Limit nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        write_result(self._folder, "ok", "", {ANSWER: {COMPILE_TIMEOUT: self._seconds}})  # type: ignore[dict-item]
        os._exit(0)
