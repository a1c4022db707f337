"""Training steps, a large product and a copy on all GPUs at once, and on each alone.

A step of a small encoder may wait for launches more than for the GPU; the product needs its power
and cooling, and the copy its link. Run as a program, it does that on one GPU: it measures for each
line on its stdin, and prints the milliseconds of each.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Final

from bench.common.errors import InputError
from bench.common.messages import last_error
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.machine.conditions import Target, find_slots
from bench.machine.devices import ALL
from bench.machine.environment import VISIBLE, worker_environment

COMMAND: Final = (sys.executable, "-m", "bench.doctor.checks.several_gpus")
WORK: Final = "a step", "a large product", "a copy to the GPU"
Times = Mapping[str, tuple[float, ...]]  # milliseconds of each kind of work, by GPU
_WARM_UP_S: Final = 0.5
_WINDOW_S: Final = 0.3
_WINDOWS: Final = 3
_TEXTS, _LONGEST = 64, 24
_SIDE: Final = 8192
_COPIED: Final = 1 << 25  # numbers of fp32: 128 MiB


def check(context: Context) -> Finding:
    """Take steps on each GPU while the others rest, then on all."""
    os.environ.pop(VISIBLE, None)
    os.environ |= {} if context.visible is None else {VISIBLE: context.visible}
    try:
        slots = find_slots(ALL)
    except InputError as error:
        raise SkipError(str(error)) from error
    if len(slots) == 1:
        return judged("several-gpus", {"gpus": 1}, {}, works="there is one GPU")
    return judge(*step_times(slots))


def step_times(slots: Sequence[Target]) -> tuple[Times, Times]:
    """The milliseconds of each kind of work by GPU, of each alone and of all at once."""
    with ExitStack() as stack:
        workers = {slot.conditions.device: _started(slot, stack) for slot in slots}
        for device, worker in workers.items():
            _answer(device, worker)  # once it is ready
        alone = {}
        for device, worker in workers.items():
            print(file=worker.stdin, flush=True)
            alone[device] = _answer(device, worker)
        for worker in workers.values():
            print(file=worker.stdin, flush=True)
        return alone, {device: _answer(device, worker) for device, worker in workers.items()}


def judge(alone: Times, together: Times) -> Finding:
    figures = {"alone_ms": dict(alone), "together_ms": dict(together)}
    slower = BY_NAME["several-gpus"].limits["slower"]
    texts = []
    for i, work in enumerate(WORK):
        ms = {device: times[i] for device, times in alone.items()}
        fastest = min(ms, key=lambda device: ms[device])
        slow = {d: each / ms[fastest] for d, each in ms.items() if each > slower * ms[fastest]}
        ratios = {device: together[device][i] / ms[device] for device in ms}
        worst = max(ratios, key=lambda device: ratios[device])
        texts.append(
            f"{work} takes {min(ms.values()):.1f} to {max(ms.values()):.1f} ms on {len(ms)} GPUs "
            f"alone, and at most {ratios[worst]:.2f} times as long on all at once ({worst})"
        )
        failures = {"alone": slow, "together": ratios[worst] > slower}
        if any(failures.values()):
            return judged(
                "several-gpus", figures, failures, work=texts[-1], fastest=fastest,
                slow=", ".join(f"{device} {ratio:.2f}" for device, ratio in slow.items()),
                others=",".join(device for device in ms if device not in slow),
            )  # fmt: skip
    return judged("several-gpus", figures, {}, works="; ".join(texts))


def _started(slot: Target, stack: ExitStack) -> subprocess.Popen[str]:
    """A process that works on a GPU, on the cores of its slot, until the stack is closed."""
    process = subprocess.Popen(
        COMMAND, env=worker_environment(os.environ, slot.conditions.threads, slot.gpu),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, slot.cores),
    )  # fmt: skip
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def _answer(device: str, worker: subprocess.Popen[str]) -> tuple[float, ...]:
    """The milliseconds of each kind of work that a process measured; none when it is ready."""
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        raise SkipError(f"steps on {device} fail: {last_error(worker.communicate()[1])}")
    return tuple(map(float, line.split()))


def main() -> None:
    import torch

    from bench.doctor.models import small_batch, small_model, small_trainer
    from minbert.model.config import GEOMETRIES

    gpu = torch.device("cuda:0")
    model = small_model("lora", "all-lin-only", str(gpu), GEOMETRIES["minilm"])
    trainer, batch = small_trainer(model, "off"), small_batch(_TEXTS, _LONGEST, str(gpu))
    square = torch.ones(_SIDE, _SIDE, dtype=torch.float16, device=gpu)
    host = torch.ones(_COPIED, pin_memory=True)
    works: tuple[Callable[[], object], ...] = (
        lambda: trainer.step(batch), lambda: square @ square, lambda: host.to(gpu),
    )  # fmt: skip

    def ms_of(work: Callable[[], object], window_s: float) -> float:
        times, begun = 0, time.perf_counter()
        while time.perf_counter() < begun + window_s:
            work()
            torch.cuda.synchronize()
            times += 1
        return 1000 * (time.perf_counter() - begun) / times

    for work in works:
        ms_of(work, _WARM_UP_S)
    print(flush=True)
    for _ in sys.stdin:
        print(*(median(ms_of(w, _WINDOW_S) for _ in range(_WINDOWS)) for w in works), flush=True)


if __name__ == "__main__":
    main()
