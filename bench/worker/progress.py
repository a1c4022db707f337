"""Progress messages from a cell to its parent: one JSON object a line, through a pipe."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from bench.results.protocol import PROGRESS_FD

INTERVAL_S: Final = 0.5
"""Least time between two messages about steps."""


class Progress:
    """Sends phases as they begin, and steps at most twice a second.

    It never waits: a message that a full or closed pipe does not take is lost. Without a descriptor
    it sends nothing, so that a cell can also run by hand.
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
        """Progress sent to the runner that started this process, if one did."""
        descriptor = os.environ.get(PROGRESS_FD)
        return cls(None if descriptor is None else int(descriptor))

    def phase(self, name: str) -> None:
        self._send({"phase": name})

    def step(
        self, step: int, steps: int | None, loss: Callable[[], float] | float | None = None
    ) -> None:
        """Send the number of steps done, their total if known, and the last loss, or what a
        function for it returns, which is only called for a message that is sent: it may wait for
        the device."""
        now = self._clock()
        if self._descriptor is None or now < self._next:
            return
        self._next = now + INTERVAL_S
        value = loss() if callable(loss) else loss
        message = {"step": step, "steps": steps, "loss": value}
        self._send({name: value for name, value in message.items() if value is not None})

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
