"""Tells the parent how far the cell is: one JSON object a line, by a pipe of its own."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from bench.results.protocol import PROGRESS_FD

INTERVAL_S: Final = 0.5
"""Between two messages about steps."""


class Progress:
    """Sends phases as they begin, and steps at most twice a second.

    It never waits: what a full or closed pipe doesn't take is lost. Without a descriptor it says
    nothing, so that a cell runs by hand as under a grid.
    """

    def __init__(self, descriptor: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._next = 0.0
        if descriptor is not None:
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    @classmethod
    def from_environment(cls) -> "Progress":
        """To the runner that started this process, if one did."""
        descriptor = os.environ.get(PROGRESS_FD)
        return cls(None if descriptor is None else int(descriptor))

    def phase(self, name: str) -> None:
        """The phase that begins now."""
        self._send({"phase": name})

    def step(
        self, step: int, steps: int | None, loss: Callable[[], float] | float | None = None
    ) -> None:
        """The number of steps done, out of how many if known, and the loss of the last.

        Args:
            loss: called only when something is sent, so that a device is rarely waited for.
        """
        now = self._clock()
        if self._descriptor is None or now < self._next:
            return
        self._next = now + INTERVAL_S
        value = loss() if callable(loss) else loss
        told = {"step": step, "steps": steps, "loss": value}
        self._send({name: value for name, value in told.items() if value is not None})

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
