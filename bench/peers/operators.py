"""The time of each operator in a training step."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minbert.data.batches import Batch

_STEPS: Final = 3
OUTSIDE: Final = "outside of operators"
"""Python, numpy's random numbers and dispatching."""


class _OperatorTimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of each operator and sums their wall-clock time."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cuda = device.type == "cuda"
        self.totals: dict[str, list[float]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        start = self._now()
        out = func(*args, **(kwargs or {}))
        elapsed = self._now() - start
        total = self.totals.setdefault(str(func.overloadpacket).removeprefix("aten."), [0, 0.0])
        total[0] += 1
        total[1] += elapsed
        return out

    def _now(self) -> float:
        if self._cuda:  # so each operator runs alone, unlike in a step
            torch.cuda.synchronize()
        return time.perf_counter()


def profile(trainer: Any, batch: Batch, step_ms: float) -> list[list[Any]]:
    """The name, calls and milliseconds of each operator of a training step, the longest first.

    Views of tensors are included. The last row is the rest of the step; its time is None if the
    operators took longer alone than the whole step, as on a GPU.

    Args:
        trainer: takes the steps; its learning rate is zero.
        step_ms: the time of a step on the batch without this profile.
    """
    trainer.step(batch)
    with _OperatorTimes(trainer.device) as times:
        for _ in range(_STEPS):
            trainer.step(batch)
    rows = [[name, calls / _STEPS, 1000 * s / _STEPS] for name, (calls, s) in times.totals.items()]
    rows.sort(key=lambda row: -row[2])
    outside = step_ms - sum(row[2] for row in rows)
    return [*rows, [OUTSIDE, 0, outside if outside > 0 else None]]
