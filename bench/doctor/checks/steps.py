"""Training steps: whether their clock is right, by a calibrated sleep; whether they wait for a GPU,
how much of their time it works, and what they take on all GPUs at once, and on each alone.

A step of a small encoder may wait for launches more than for the GPU; a large product needs its
power and cooling, and a copy its link. Run as a program, it does these on one GPU: it measures for
each line on its stdin, and prints the milliseconds of each.
"""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from bench.common.errors import InputError
from bench.common.messages import last_error
from bench.doctor import models
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.machine.conditions import Target, find_slots
from bench.machine.devices import ALL
from bench.machine.environment import VISIBLE, worker_environment
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.worker.device import HostCopies
from bench.worker.probes.counting import Counter
from bench.worker.probes.steps import StepClock
from minbert.data.batches import Batch, collate
from minbert.data.encoded import Encoded
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import Trainer

_WARM_UP, _CHECKED = 2, 2
"""Steps, and those before them: libraries synchronise when they are first used."""
_TEXTS: Final = 16
_ROOT: Final = Path(__file__).parents[3]

GEOMETRY: Final = "minilm"
TEXTS, LONGEST = 64, 24
"""Of a batch, and tokens of the longest text, as in a batch of short sentences."""
STEPS: Final = 20
_SLEEP_S: Final = 0.05
_REPEATS: Final = 12
_CLOCK_WARM_UP_S: Final = 1.0
"""An idle GPU takes some tenths of a second to raise its clocks, which sleeps of cycles follow."""
_CYCLES: Final = 20_000_000  # GPU cycles of the shorter sleep: 10 to 20 ms
COMMAND: Final = (sys.executable, "-m", "bench.doctor.checks.steps")
WORK: Final = "a step", "a large product", "a copy to the GPU"
Times = Mapping[str, tuple[float, ...]]  # milliseconds of each kind of work, by GPU
_WARM_UP_S: Final = 0.5
_WINDOW_S: Final = 0.3
_WINDOWS: Final = 3
_SIDE: Final = 8192
_COPIED: Final = 1 << 25  # numbers of fp32: 128 MiB


def step_clock(context: Context) -> Finding:
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
    warm = time.monotonic_ns() + _CLOCK_WARM_UP_S * 1e9
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


def synchronisation(context: Context) -> Finding:
    """Take steps of each setting as a worker does, with torch raising an error at each wait."""
    device = torch.device(context.device)
    waits: dict[str, str] = {}
    settings = [(*setting, MINBERT) for setting in models.SETTINGS]
    if find_spec("transformers"):
        settings.append((*models.SETTINGS[-1], TRANSFORMERS))
    every = [(*setting, amp) for setting in settings for amp in context.amps]
    for mode, layers, engine, amp in every:
        if engine == MINBERT:
            trainer = models.small_trainer(models.small_model(mode, layers, context.device), amp)
        else:
            trainer = models.cell_trainer(
                context.device, mode, layers, amp, "bert-tiny", engine=engine
            )
        try:
            _steps(trainer, device)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            named = engine if engine == TRANSFORMERS else None
            waits[" ".join(filter(None, (mode, layers, f"amp {amp}", named)))] = _place(error)
    setting, place = next(iter(waits.items()), ("", ""))
    figures = {"settings": len(every), "waits": waits}
    return judged(
        "synchronisation", figures, {"waits": waits}, waiting=len(waits), setting=setting,
        place=place,
    )  # fmt: skip


def _steps(trainer: Trainer, device: torch.device) -> None:
    """Copy batches to the GPU, take steps on them, time these and keep their losses."""
    offsets = np.concatenate([[0], np.cumsum(np.arange(_TEXTS) + 5)])  # so that batches have a mask
    ids = np.random.default_rng(0).integers(
        1, models.CONFIG.vocab_size, offsets[-1], dtype=np.int32
    )
    texts, labels = Encoded(ids, np.zeros_like(ids, np.int8), offsets), np.arange(_TEXTS) % 3
    clock, losses = StepClock(device), HostCopies(device)
    trainer.mark = clock.mark

    def step() -> None:
        batch = collate([texts], labels, np.arange(_TEXTS), models.CONFIG.pad_token_id, device)
        with clock.step(batch):
            loss, _ = trainer.step(batch)
        losses.keep(loss)

    for _ in range(_WARM_UP):
        step()
    with models.waiting_is_an_error(device):
        for _ in range(_CHECKED):
            step()


def _place(error: BaseException) -> str:
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(_ROOT) and "site-packages" not in frame.filename
    ]
    return f"{Path(own[-1].filename).relative_to(_ROOT)}:{own[-1].lineno}"


def load(context: Context) -> Finding:
    """Time steps of LoRA by both kernels, count their operators, and profile some."""
    batch = models.small_batch(TEXTS, LONGEST, context.device)
    step_ms = {}
    for path in (REFERENCE, FAST):
        model = models.small_model("lora", "all-lin-only", context.device, GEOMETRIES[GEOMETRY])
        trainer = models.small_trainer(model, context.amp_on)
        with kernels(path):
            trainer.step(batch)
            step_ms[path] = models.median_ms(trainer, batch, STEPS)
    with Counter() as counter:
        trainer.step(batch)
    launched = models.kernels_of(lambda: trainer.step(batch), torch.device(context.device))
    if not launched:
        raise SkipError("the profiler sees no kernels: the driver allows counters to root alone")
    busy_ms = sum(ms for _, ms in launched)
    counted = counter.work.kernels
    return judge_load(step_ms[FAST], len(launched), busy_ms, counted, step_ms[REFERENCE])


def judge_load(
    step_ms: float, launched: int, busy_ms: float, counted: int, reference_ms: float
) -> Finding:
    """The finding on a step that launches kernels, which take `busy_ms`, and counts operators."""
    busy, ratio = min(1.0, busy_ms / step_ms), launched / max(1, counted)
    limits = BY_NAME["gpu-load"].limits
    is_launch_bound = busy < limits["launch_bound"]
    figures: dict[str, Any] = {
        "step_ms": step_ms, "reference_ms": reference_ms, "kernels": launched,
        "kernels_ms": busy_ms, "operators_counted": counted, "busy_share": busy,
        "is_launch_bound": is_launch_bound,
    }  # fmt: skip
    failures = {
        "kernels": not limits["least_per_operator"] <= ratio <= limits["most_per_operator"],
        "slower": step_ms > limits["slower"] * reference_ms,
    }
    limit = "limits it, and compile = true can pay" if is_launch_bound else "does not limit it"
    return judged("gpu-load", figures, failures, geometry=GEOMETRY, limit=limit)


def several_gpus(context: Context) -> Finding:
    """Take steps on each GPU while the others rest, then on all."""
    os.environ.pop(VISIBLE, None)
    os.environ |= {} if context.visible is None else {VISIBLE: context.visible}
    try:
        slots = find_slots(ALL)
    except InputError as error:
        raise SkipError(str(error)) from error
    if len(slots) == 1:
        return judged("several-gpus", {"gpus": 1}, {}, works="there is one GPU")
    return judge_gpus(*step_times(slots))


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


def judge_gpus(alone: Times, together: Times) -> Finding:
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
    gpu = torch.device("cuda:0")
    model = models.small_model("lora", "all-lin-only", str(gpu), GEOMETRIES[GEOMETRY])
    trainer, batch = (
        models.small_trainer(model, "off"),
        models.small_batch(TEXTS, LONGEST, str(gpu)),
    )
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
