"""Times of training steps: CUDA events on a GPU, a monotonic clock elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from minbert.data.batches import Batch


@dataclass(frozen=True)
class Step:
    """One training step: its time in ms, and its batch's tokens without padding and with it, and
    examples."""

    ms: float
    tokens: int
    padded: int
    examples: int


class StepClock:
    """Times steps one by one without waiting for the device between them.

    On a GPU a pair of events brackets each step on the stream, so that nothing is synchronised
    until the times are read. On a CPU an operator has ended when it returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[Any, Any, int, int, int]] = []

    @contextmanager
    def step(self, batch: Batch) -> Iterator[None]:
        """Time the block as one step on a batch."""
        begin = self._now()
        yield
        end = self._now()
        self._marks.append((begin, end, batch.tokens, batch.padded, len(batch.labels)))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def steps(self) -> list[Step]:
        """All steps so far, in order. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        return [Step(self._elapsed_ms(begin, end), *sizes) for begin, end, *sizes in self._marks]

    def _elapsed_ms(self, begin: Any, end: Any) -> float:
        if self._cuda:
            return float(begin.elapsed_time(end))
        return float(end - begin) * 1000
