"""The step clock against a calibrated sleep, and against the time around and inside the step."""

import time
from typing import Any, Final

import torch

from bench.doctor.check import Context, Finding, judged
from bench.worker.probes.steps import StepClock
from minbert.data.batches import Batch

_SLEEP_S: Final = 0.05
_REPEATS: Final = 12
_WARM_UP_S: Final = 1.0
"""An idle GPU takes some tenths of a second to raise its clocks, which sleeps of cycles follow."""
_CYCLES: Final = 20_000_000
"""GPU cycles of the shorter sleep: 10 to 20 ms."""
TOLERANCE: Final = {"cpu": 0.01, "cuda": 0.05}
"""The largest deviation in the best of the repeats, as a share. On a CPU only a few function calls
lie between the two clocks, thousandths of a sleep; on a GPU a launch and a wait, 0.1 ms of 10."""


def check(context: Context) -> Finding:
    """Time sleeps of two lengths by both clocks: their ratio, and that of the lengths."""
    device = torch.device(context.device)
    clock, batch = StepClock(device), Batch(torch.zeros(1, 1), None, None, torch.zeros(1), 1)
    warm = time.monotonic_ns() + _WARM_UP_S * 1e9
    while device.type == "cuda" and time.monotonic_ns() < warm:
        _sleep(device, 1)
        _wait_for(device)
    walls = []
    for number in range(_REPEATS):
        length = 1 + number % 2
        _wait_for(device)
        begun = time.monotonic_ns()
        with clock.step(batch):
            _sleep(device, length)
        _wait_for(device)
        walls.append((time.monotonic_ns() - begun) / 1e6)
    times = [step.ms for step in clock.steps()]
    deviation = min((ms / wall - 1 for ms, wall in zip(times, walls, strict=True)), key=abs)
    doubled = min(times[1::2]) / min(times[::2])
    figures = {"best_deviation": deviation, "two_sleeps_over_one": doubled,
               "wall_ms": walls, "clock_ms": times}  # fmt: skip
    tolerance = TOLERANCE[device.type]
    summary = (
        f"the clock deviates by {deviation:+.2%} from the time around a step, "
        f"and sleeps of twice the length take {doubled:.3f} times as long"
    )
    remedy = "step times of this machine are wrong by that share: report this, with the JSON"
    is_right = abs(deviation) <= tolerance and abs(doubled - 2) <= 2 * tolerance
    return judged(is_right, summary, remedy, figures)


def _sleep(device: torch.device, length: int) -> None:
    if device.type == "cuda":
        torch.cuda._sleep(length * _CYCLES)  # type: ignore[no-untyped-call]
    else:
        time.sleep(length * _SLEEP_S)


def _wait_for(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
