"""A strike: what goes wrong in a process, in which phase and when in it. No torch."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What goes wrong, where and when.

    Attributes:
        side: `worker` or `parent`: whose phases are meant.
        action: name of a function of `tests.experiments.faults.actions`.
        cell: how many launches of the run come before the one that is struck.
        moment: from 0 to 1, the share of the phase's usual length that has gone then.
        amount: whatever number the action takes.
        child: whether the struck worker has a process of its own, which ignores SIGTERM.
        in_main: whether it strikes in the main thread, at the next tick, as an exception must.
    """

    side: str
    action: str
    phase: str
    cell: int
    moment: float
    usual_s: float
    amount: int = 0
    child: bool = False
    in_main: bool = False

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Strike | None":
        return cls(**json.loads(path.read_text())) if path.exists() else None


class Hook:
    """Follows the phases of a process, and strikes in one of them, once.

    What has not struck when its phase ends strikes at that moment.
    """

    def __init__(self, strike: Strike | None, act: Callable[[Strike, str], None]) -> None:
        self.strike = strike
        self.phase = ""
        self._act = act
        self._armed = False
        self._at = 0.0
        self._lock = threading.Lock()

    def enter(self, phase: str) -> None:
        self._fire()
        self.phase = phase
        strike = self.strike
        if strike is None or strike.phase != phase:
            return
        self.strike = None
        self._armed, self._pending = True, strike
        wait_s = strike.moment * strike.usual_s
        self._at = time.monotonic() + wait_s
        if wait_s == 0:
            self._fire()
        elif not strike.in_main:
            threading.Timer(wait_s, self._fire).start()

    def tick(self) -> None:
        """A moment at which the main thread can be struck."""
        if self._armed and self._pending.in_main and time.monotonic() >= self._at:
            self._fire()

    def _fire(self) -> None:
        with self._lock:
            armed, self._armed = self._armed, False
        if armed:
            self._act(self._pending, self.phase)
