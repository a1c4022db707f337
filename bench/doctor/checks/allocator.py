"""Memory and page faults over identical training steps, under the allocator's tunables."""

import resource
from itertools import pairwise
from statistics import median
from typing import Final

import torch

from bench.doctor.check import Context, Finding, SkipError, judged
from bench.doctor.models import small_batch, small_model, small_trainer
from bench.worker.probes.memory import MIB, resident_now

_WARM: Final = 4
_WINDOWS: Final = 4
_STEPS: Final = 4
"""In each window."""
_BATCH: Final = (64, 64)
"""Texts, and tokens of each: a layer's activations are blocks of some MiB, as in a real step."""
GROWTH_MIB: Final = 1.0
"""In every window. The same step needs the same memory; a heap that is still finding its layout
grows by some huge pages of 2 MiB, and then not any more."""
FAULTS: Final = 2000
"""New pages in a step, 8 MiB. With the tunables there is a handful, and without them there are
20,000: all that a step allocates."""


def check(context: Context) -> Finding:
    """Take the same step again and again; look at memory and faults after the first few."""
    device = torch.device(context.device)
    trainer = small_trainer(small_model("full", None, context.device), "off")
    batch = small_batch(*_BATCH, context.device, masked=False)
    held, faults = [], []
    for _ in range(_WARM + _WINDOWS * _STEPS):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        trainer.step(batch)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        held.append(_held_mib(device))
    ends = held[_WARM - 1 :: _STEPS]
    growth, new = min(after - before for before, after in pairwise(ends)), median(faults[_WARM:])
    figures = {"least_growth_mib": growth, "faults": faults, "held_mib": held}
    grows = max(growth, 0.0)
    summary = f"{new:,.0f} new pages a step, and memory grows by {grows:.1f} MiB in {_STEPS} steps"
    remedy = "report this: steps are timed while memory grows"
    if new > FAULTS:
        remedy = "unset LD_PRELOAD and GLIBC_TUNABLES; on a system without glibc, times are slower"
    return judged(growth <= GROWTH_MIB and new <= FAULTS, summary, remedy, figures)


def _held_mib(device: torch.device) -> float:
    """What the process holds: reserved on a GPU, anonymous elsewhere."""
    if device.type == "cuda":
        return float(torch.cuda.memory_reserved(device)) / MIB
    held = resident_now().anon_mib
    if held is None:
        raise SkipError("this system does not report a process's resident memory")
    return held
