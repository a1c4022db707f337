"""Where the time of a training step goes, operator by operator."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minbert.data.batches import Batch

_STEPS: Final = 3
OUTSIDE: Final = "outside of operators"
"""Python, numpy's random numbers, and what dispatching takes."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the calls of each operator, and their time by the clock."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cuda = device.type == "cuda"
        self.found: dict[str, list[float]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        begun = self._now()
        out = func(*args, **(kwargs or {}))
        taken = self._now() - begun
        of = self.found.setdefault(str(func.overloadpacket).removeprefix("aten."), [0, 0.0])
        of[0] += 1
        of[1] += taken
        return out

    def _now(self) -> float:
        if self._cuda:  # an operator alone, then, and not beside others as in a step
            torch.cuda.synchronize()
        return time.perf_counter()


def profile(trainer: Any, batch: Batch, step_ms: float) -> list[list[Any]]:
    """Each operator of a training step with its calls and its ms, the longest first.

    Operators that only look at a tensor in another way count too. The last row is the rest of the
    step; it has no time where operators took longer alone than the step does, as on a GPU.

    Args:
        trainer: what takes the steps; its learning rate is zero.
        step_ms: what a step on the batch takes when nobody watches.
    """
    trainer.step(batch)
    with _Watch(trainer.device) as watch:
        for _ in range(_STEPS):
            trainer.step(batch)
    rows = [[name, calls / _STEPS, 1000 * s / _STEPS] for name, (calls, s) in watch.found.items()]
    rows.sort(key=lambda row: -row[2])
    outside = step_ms - sum(row[2] for row in rows)
    return [*rows, [OUTSIDE, 0, outside if outside > 0 else None]]
