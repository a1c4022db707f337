"""Training steps on all GPUs at once, and on each alone.

Run as a program, it takes steps on one GPU: it measures them for each line on its stdin, and prints
the milliseconds of a step.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Final

from bench.common.errors import InputError
from bench.common.messages import last_error
from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.machine.conditions import Found, find_lanes
from bench.machine.cores import bind_thread
from bench.machine.devices import ALL
from bench.machine.environment import VISIBLE, worker_environment

COMMAND: Final = (sys.executable, "-m", "bench.doctor.checks.several_gpus")
SLOWER: Final = 1.1
"""How many times as long a step may take as on the fastest GPU, or as on the same GPU alone."""
_WARM_UP_S: Final = 1.0
_WINDOW_S: Final = 0.5
_WINDOWS: Final = 3
_TEXTS, _LONGEST = 64, 24


def check(context: Context) -> Finding:
    """Take steps on each GPU while the others rest, then on all."""
    os.environ.pop(VISIBLE, None)
    os.environ |= {} if context.visible is None else {VISIBLE: context.visible}
    try:
        lanes = find_lanes(ALL)
    except InputError as error:
        raise SkipError(str(error)) from error
    if len(lanes) == 1:
        return Finding(OK, "there is one GPU", figures={"gpus": 1})
    return judge(*step_times(lanes))


def step_times(lanes: Sequence[Found]) -> tuple[dict[str, float], dict[str, float]]:
    """The milliseconds of a step by GPU, of each alone and of all at once.

    Raises:
        SkipError: if steps can't be taken on a GPU.
    """
    with ExitStack() as stack:
        workers = {}
        before = os.sched_getaffinity(0)
        try:
            for lane in lanes:
                bind_thread(lane.cores)
                workers[lane.conditions.device] = stack.enter_context(_Worker(lane))
        finally:
            bind_thread(frozenset(before))
        for worker in workers.values():
            worker.answer()  # once it is ready
        alone = {}
        for device, worker in workers.items():
            worker.ask()
            alone[device] = worker.answer()
        for worker in workers.values():
            worker.ask()
        return alone, {device: worker.answer() for device, worker in workers.items()}


def judge(alone: Mapping[str, float], together: Mapping[str, float]) -> Finding:
    """The finding on the milliseconds of a step on each GPU, alone and with the others."""
    fastest = min(alone, key=lambda device: alone[device])
    slow = {d: ms / alone[fastest] for d, ms in alone.items() if ms > SLOWER * alone[fastest]}
    ratios = {device: together[device] / alone[device] for device in alone}
    worst = max(ratios, key=lambda device: ratios[device])
    figures = {"alone_ms": dict(alone), "together_ms": dict(together)}
    summary = (
        f"a step takes {min(alone.values()):.1f} to {max(alone.values()):.1f} ms on {len(alone)} "
        f"GPUs alone, and at most {ratios[worst]:.2f} times as long on all at once ({worst})"
    )
    if slow:
        names = ", ".join(f"{device} {ratio:.2f}" for device, ratio in slow.items())
        others = ",".join(device for device in alone if device not in slow)
        remedy = f"leave them out (--device {others}); nvidia-smi -q -d PERFORMANCE may say why"
        return Finding(FAILED, f"{summary}; times as long as {fastest}: {names}", remedy, figures)
    if ratios[worst] > SLOWER:
        remedy = (
            "compare cells of --device all only with one another, as reports do; look at power, "
            "cooling and the cores near each GPU (nvidia-smi topo -m)"
        )
        return Finding(FAILED, summary, remedy, figures)
    return Finding(OK, summary, figures=figures)


class _Worker:
    """A process that takes steps on a GPU, bound to the cores that this one is bound to."""

    def __init__(self, lane: Found) -> None:
        self._device = lane.conditions.device
        self._process = subprocess.Popen(
            COMMAND, env=worker_environment(os.environ, lane.conditions.threads, lane.gpu),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self) -> None:
        """Let it measure."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def answer(self) -> float:
        """The milliseconds that it measured; 0 when it is ready.

        Raises:
            SkipError: if it ended.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            why = last_error(self._process.communicate()[1])
            raise SkipError(f"steps on {self._device} fail: {why}")
        return float(line)


def main() -> None:
    """Measure steps for each line on stdin."""
    import torch

    from bench.doctor.models import small_batch, small_model, small_trainer
    from minbert.model.config import GEOMETRIES

    model = small_model("lora", "all-lin-only", "cuda:0", GEOMETRIES["minilm"])
    trainer, batch = small_trainer(model, "off"), small_batch(_TEXTS, _LONGEST, "cuda:0")

    def step_ms(window_s: float) -> float:
        steps, begun = 0, time.perf_counter()
        while time.perf_counter() < begun + window_s:
            trainer.step(batch)
            torch.cuda.synchronize()
            steps += 1
        return 1000 * (time.perf_counter() - begun) / steps

    step_ms(_WARM_UP_S)
    print(0.0, flush=True)
    for _ in sys.stdin:
        print(median(step_ms(_WINDOW_S) for _ in range(_WINDOWS)), flush=True)


if __name__ == "__main__":
    main()
