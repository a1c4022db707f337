"""Kernels of a training step on a GPU, and the share of its time in which the GPU works."""

from typing import Any, Final

import torch

from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.doctor.models import kernels_of, median_ms, small_batch, small_model, small_trainer
from bench.worker.probes.counting import Counter
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import Trainer

GEOMETRY: Final = "minilm"
TEXTS: Final = 64
LONGEST: Final = 24
"""Tokens of the longest text, as in a batch of short sentences."""
STEPS: Final = 20
PER_OPERATOR: Final = (0.95, 1.5)
"""Kernels that a GPU may launch for each operator that forecasts count; 1.1 to 1.4 is expected.

Each operator launches one at least. A product launches a second where it is split along its inner
dimension, or copies what it adds to; 206 of 460 operators of this step in fp32 are products, so if
all of them do, the ratio is 1.45. Steps of other code differ by more."""
SLOWER: Final = 1.05
"""How many times as long as on reference kernels a step may take; twice what single steps vary."""
LAUNCH_BOUND: Final = 0.7
"""Busy share below which compiled steps, which are launched at once, can take a third less time."""


def check(context: Context) -> Finding:
    """Time steps of LoRA by both kernels, count their operators, and profile some."""
    device = torch.device(context.device)
    batch = small_batch(TEXTS, LONGEST, context.device)

    def timed(path: str) -> tuple[Trainer, float]:
        model = small_model("lora", "all-lin-only", context.device, GEOMETRIES[GEOMETRY])
        trainer = small_trainer(model, context.amp_on)
        with kernels(path):
            trainer.step(batch)
            return trainer, median_ms(trainer, batch, STEPS)

    _, reference_ms = timed(REFERENCE)
    trainer, step_ms = timed(FAST)
    with Counter() as counter:
        trainer.step(batch)
    launched = kernels_of(lambda: trainer.step(batch), device)
    if not launched:
        raise SkipError("the profiler sees no kernels: the driver allows counters to root alone")
    busy_ms = sum(ms for _, ms in launched)
    return judge(step_ms, len(launched), busy_ms, counter.work.kernels, reference_ms)


def judge(
    step_ms: float, launched: int, busy_ms: float, counted: int, reference_ms: float
) -> Finding:
    """The finding on a step that launches kernels, which take `busy_ms`, and counts operators."""
    busy, ratio = min(1.0, busy_ms / step_ms), launched / max(1, counted)
    figures: dict[str, Any] = {
        "step_ms": step_ms, "reference_ms": reference_ms, "kernels": launched,
        "kernels_ms": busy_ms, "operators_counted": counted, "busy_share": busy,
        "is_launch_bound": busy < LAUNCH_BOUND,
    }  # fmt: skip
    summary = (
        f"a step of {GEOMETRY} takes {step_ms:.1f} ms ({reference_ms:.1f} by plain torch) and "
        f"launches {launched:,} kernels, which keep the GPU busy for {busy:.0%} of it"
    )
    if not PER_OPERATOR[0] <= ratio <= PER_OPERATOR[1]:
        remedy = "trust no forecast of time here, and report this: the GPU runs other kernels"
        return Finding(FAILED, f"{summary}; forecasts count {counted:,}", remedy, figures)
    if step_ms > SLOWER * reference_ms:
        remedy = 'set kernels = "reference" in the grid file here, and report this'
        return Finding(FAILED, f"{summary}: plain torch is faster", remedy, figures)
    limits = "limits it, and compile = true can pay" if busy < LAUNCH_BOUND else "does not limit it"
    return Finding(OK, f"{summary}: launching {limits}", figures=figures)
