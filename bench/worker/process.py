"""The process of a worker: its tie to its parent, the imports of its cell, and messages on its
progress to the parent, one JSON object a line, through a pipe.

The kernel ends the process when its parent has died, for whatever reason (PR_SET_PDEATHSIG), even
while a library holds Python's lock. The processes that this one started are ended by the guard of
`bench.launch.watch`. The imports, torch above all, take most of the time until the first step.
"""

import ctypes
import gc
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from bench.plan.job import Job
from bench.results.protocol import PARENT_PID, PROGRESS_FD

_INTERVAL_S: Final = 0.5
"""Least time between two messages about steps."""


def tie_to_parent() -> None:
    """Tie this process to its parent, if a runner started it and not a person."""
    parent = os.environ.get(PARENT_PID)
    if parent is None:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before the kernel began to watch it
        os.kill(os.getpid(), signal.SIGKILL)


def import_all(job: Job | None = None) -> None:
    """Import all that cells need, and with a job what its engine does too, without garbage
    collection: it would scan hundreds of thousands of permanent objects again and again, for a
    tenth of the time and more."""
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
        from bench.engines.engine import engine_of

        if job is not None:
            engine_of(job.cell).import_libraries(job)
    finally:
        gc.enable()
    gc.freeze()


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
        function for it returns, which is only called for a message: it may wait for the device."""
        now = self._clock()
        if self._descriptor is None or now < self._next:
            return
        self._next = now + _INTERVAL_S
        value = loss() if callable(loss) else loss
        message = {"step": step, "steps": steps, "loss": value}
        self._send({name: value for name, value in message.items() if value is not None})

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
