"""The step clock against a calibrated sleep, and against the time around and inside the step."""

import time
from typing import Final

import torch

from bench.doctor.check import BY_NAME, Context, Finding, judged
from bench.worker.probes.steps import StepClock
from minbert.data.batches import Batch

_SLEEP_S: Final = 0.05
_REPEATS: Final = 12
_WARM_UP_S: Final = 1.0
"""An idle GPU takes some tenths of a second to raise its clocks, which sleeps of cycles follow."""
_CYCLES: Final = 20_000_000  # GPU cycles of the shorter sleep: 10 to 20 ms


def check(context: Context) -> Finding:
    """Time sleeps of two lengths by both clocks: their ratio, and that of the lengths."""
    device = torch.device(context.device)
    on_gpu = device.type == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)

    def sleep(length: int) -> None:
        if on_gpu:
            torch.cuda._sleep(length * _CYCLES)  # type: ignore[no-untyped-call]
        else:
            time.sleep(length * _SLEEP_S)

    clock, batch = StepClock(device), Batch(torch.zeros(1, 1), None, None, torch.zeros(1), 1)
    warm = time.monotonic_ns() + _WARM_UP_S * 1e9
    while on_gpu and time.monotonic_ns() < warm:
        sleep(1)
        wait()
    walls = []
    for number in range(_REPEATS):
        wait()
        begun = time.monotonic_ns()
        with clock.step(batch):
            sleep(1 + number % 2)
        wait()
        walls.append((time.monotonic_ns() - begun) / 1e6)
    times = [step.ms for step in clock.steps()]
    # the time around a step contains that of the clock, and more of it if the machine is busy
    deviation = max(ms / wall - 1 for ms, wall in zip(times, walls, strict=True))
    doubled = min(times[1::2]) / min(times[::2])
    figures = {"best_deviation": deviation, "two_sleeps_over_one": doubled,
               "wall_ms": walls, "clock_ms": times}  # fmt: skip
    tolerance = BY_NAME["step-clock"].limits[device.type]
    is_right = abs(deviation) <= tolerance and abs(doubled - 2) <= 2 * tolerance
    return judged("step-clock", figures, {"wrong": not is_right})
