"""Phases of a cell: the time of each, and the peak memory of this process in it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.worker.probes.memory import Resident, forget_peak, peak_so_far


class Phases:
    """Measures named phases, one after the other; a repeated name adds to its time.

    Args:
        on_phase: called with a phase's name when it begins.
    """

    def __init__(self, on_phase: Callable[[str], None] = lambda _name: None) -> None:
        self._on_phase = on_phase
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, Resident] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as a phase. Phases don't nest."""
        self._on_phase(name)
        begun = time.perf_counter()
        forget_peak()
        try:
            yield
        finally:
            self.peaks.setdefault(name, Resident()).take(peak_so_far())
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    @property
    def peak(self) -> Resident:
        """The highest peaks of all phases."""
        highest = Resident()
        for peak in self.peaks.values():
            highest.take(peak)
        return highest
