"""The turn on a device that counting takes, where anything has to be counted."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from bench.common.errors import DiskFullError
from bench.forecast.client import NoPredictionError
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals

Turn = Callable[[], AbstractContextManager[None]]
"""Makes what is entered around counting."""


def turn_on(device: str, signals: Signals) -> Turn:
    """The turn on a device: counting would disturb the times of another grid that runs on it.

    Entering raises NoPredictionError if it can't be locked, and StoppedError if the user stops the
    wait; so does the user's stopping what is done in it.
    """

    def waits() -> None:
        sys.stderr.write("waits for another grid\n")

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
