"""Times of training steps: CUDA events on a GPU, a monotonic clock elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from minbert.data.batches import Batch


@dataclass(frozen=True)
class Step:
    """One training step, and the tokens, with and without padding, and examples of its batches.

    `forward_ms` is of the forward passes with the loss, `backward_ms` of the backward passes; None
    where these were not marked. The optimizer takes the rest of the step.
    """

    ms: float
    tokens: int
    padded: int
    examples: int
    forward_ms: float | None = None
    backward_ms: float | None = None


class StepClock:
    """Times steps without waiting for the device between them: on a GPU by events on the stream,
    whose times are read at the end; on a CPU an operator has ended when it returns."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[list[Any], int, int, int]] = []
        self._times: list[Any] = []

    @contextmanager
    def step(self, *batches: Batch) -> Iterator[None]:
        """Time the block as one step on a batch, or on several of which it takes the mean."""
        self._times = []
        self.mark()
        yield
        self.mark()
        sizes = [(batch.tokens, batch.padded, len(batch.labels)) for batch in batches]
        tokens, padded, examples = map(sum, zip(*sizes, strict=True))
        self._marks.append((self._times, tokens, padded, examples))

    def mark(self) -> None:
        self._times.append(self._now())

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
        steps = []
        for times, *sizes in self._marks:
            *passes, _ = (self._elapsed_ms(*pair) for pair in pairwise(times))
            parts = (sum(passes[::2]), sum(passes[1::2])) if len(passes) > 1 else ()
            steps.append(Step(self._elapsed_ms(times[0], times[-1]), *sizes, *parts))
        return steps

    def _elapsed_ms(self, begin: Any, end: Any) -> float:
        if self._cuda:
            return float(begin.elapsed_time(end))
        return float(end - begin) * 1000
