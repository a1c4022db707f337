"""Kernels of a training step on a GPU, and the share of its time in which the GPU works."""

from statistics import median
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.doctor.models import small_batch, small_model, small_trainer
from bench.worker.device import set_up_device
from bench.worker.probes.counting import Counter
from bench.worker.probes.steps import StepClock
from minbert.model.config import GEOMETRIES

GEOMETRY: Final = "minilm"
TEXTS: Final = 64
LONGEST: Final = 24
"""Tokens of the longest text, as in a batch of short sentences."""
STEPS: Final = 20
PROFILED: Final = 3
AGREE: Final = 2.0
"""The factor within which the kernels that a GPU launches agree with the operators that forecasts
count. Some operators launch two kernels and some none; steps of other code differ by more."""
LAUNCH_BOUND: Final = 0.7
"""Busy share below which compiled steps, which are launched at once, can take a third less time."""


def check(context: Context) -> Finding:
    """Time steps of LoRA, count their operators, and profile some for their kernels."""
    device = torch.device(context.device)
    set_up_device(device)
    model = small_model("lora", "all-lin-only", context.device, GEOMETRIES[GEOMETRY])
    trainer = small_trainer(model, context.amp_on)
    batch = small_batch(TEXTS, LONGEST, context.device)
    trainer.step(batch)
    clock = StepClock(device)
    for _ in range(STEPS):
        with clock.step(batch):
            trainer.step(batch)
    steps = [step.ms for step in clock.steps()]
    with Counter() as counter:
        trainer.step(batch)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(PROFILED):
            trainer.step(batch)
        torch.cuda.synchronize(device)
    kernels = [
        event.time_range.elapsed_us() / 1000
        for event in profiled.events()
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
    ]
    if not kernels:
        raise SkipError("the profiler sees no kernels: the driver allows counters to root alone")
    number, busy_ms = len(kernels) / PROFILED, sum(kernels) / PROFILED
    return judge(median(steps), number, busy_ms, counter.work.kernels)


def judge(step_ms: float, kernels: float, busy_ms: float, counted: int) -> Finding:
    """The finding on a step that launches kernels, which take `busy_ms`, and counts operators."""
    busy, ratio = min(1.0, busy_ms / step_ms), kernels / max(1, counted)
    figures: dict[str, Any] = {
        "step_ms": step_ms, "kernels": kernels, "kernels_ms": busy_ms,
        "operators_counted": counted, "busy_share": busy, "is_launch_bound": busy < LAUNCH_BOUND,
    }  # fmt: skip
    summary = (
        f"a step of {GEOMETRY} takes {step_ms:.1f} ms and launches {kernels:,.0f} kernels, which "
        f"keep the GPU busy for {busy:.0%} of it"
    )
    if not 1 / AGREE <= ratio <= AGREE:
        remedy = "trust no forecast of time here, and report this: the GPU runs other kernels"
        return Finding(FAILED, f"{summary}; forecasts count {counted:,}", remedy, figures)
    limits = "limits it, and compile = true can pay" if busy < LAUNCH_BOUND else "does not limit it"
    return Finding(OK, f"{summary}: launching {limits}", figures=figures)
