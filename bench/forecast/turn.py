"""Taking turns on a device while costs are counted."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from bench.common.errors import DiskFullError
from bench.forecast.client import NoPredictionError
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals

Turn = Callable[[], AbstractContextManager[None]]
"""Makes the context in which costs are counted."""


def turn_on(device: str, signals: Signals) -> Turn:
    """Turns on a device, since counting would disturb the times of another grid on it.

    Entering one raises NoPredictionError if the device can't be locked. StoppedError is raised if
    the user stops the wait, or what runs inside.
    """

    def waits() -> None:
        sys.stderr.write("waiting for another grid\n")

    @contextmanager
    def turn() -> Iterator[None]:
        with ExitStack() as held:
            try:
                devices = held.enter_context(Locks(device_locks(), signals, waits))
                held.enter_context(devices.turn(device))
            except DiskFullError as error:
                raise NoPredictionError(str(error)) from error
            held.enter_context(signals.raising())
            yield

    return turn
