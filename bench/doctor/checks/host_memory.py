"""Host memory: whether its counters are right, warm steps reuse it, and it is in huge pages."""

import mmap
import os
import re
import resource
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import torch

from bench.common.files import text_or_empty
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.doctor.models import small_batch, small_model, small_trainer
from bench.worker.probes.memory import MIB, Phases, forget_peak, peak_so_far, resident_now

BLOCK_MIB: Final = 256

_WARM, _WINDOWS, _STEPS = 4, 4, 4  # steps before the first window, windows, and steps in each
_BATCH: Final = (64, 64)
"""Texts, and tokens of each: a layer's activations are blocks of some MiB, as in a real step."""

_ENABLED: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PAGES: Final = Path("/proc/self/smaps_rollup")
_WANTED: Final = "glibc.malloc.hugetlb=1"


def counters(context: Context) -> Finding:  # noqa: ARG001
    """Write to a block in a phase and free it: current and peak memory, resident and anonymous."""
    before = resident_now()
    if before.rss_mib is None or before.anon_mib is None:
        raise SkipError("this system does not report a process's resident memory")
    phases = Phases()
    with phases.phase("block"):
        block = mmap.mmap(-1, BLOCK_MIB * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for _ in range(BLOCK_MIB):
            block.write(b"\1" * MIB)
        during = resident_now()
        block.close()
    peak, after = phases.peak, resident_now()
    forget_peak()
    reset = peak_so_far()
    figures = {
        "rss_rise_mib": (during.rss_mib or 0.0) - before.rss_mib,
        "anon_rise_mib": (during.anon_mib or 0.0) - before.anon_mib,
        "rss_peak_rise_mib": (peak.rss_mib or 0.0) - before.rss_mib,
        "anon_peak_rise_mib": (peak.anon_mib or 0.0) - before.anon_mib,
        "rss_left_mib": (after.rss_mib or 0.0) - before.rss_mib,
        "peak_after_reset_mib": (reset.rss_mib or 0.0) - (after.rss_mib or 0.0),
    }
    expected = {name: BLOCK_MIB if "rise" in name else 0 for name in figures}
    errors = {name: abs(value - expected[name]) for name, value in figures.items()}
    wrong = [
        f"{name.removesuffix('_mib').replace('_', ' ')} {figures[name]:,.1f} for {right:,} MiB"
        for name, right in expected.items()
        if errors[name] > BY_NAME["memory-counters"].limits["error_mib"]
    ]
    return judged(
        "memory-counters", figures, {"wrong": wrong}, block_mib=BLOCK_MIB,
        error_mib=max(errors.values()),
    )  # fmt: skip


def allocator(context: Context) -> Finding:
    """Take the same step again and again; look at memory and faults after the first few."""
    device = torch.device(context.device)
    trainer = small_trainer(small_model("full", None, context.device), "off")
    batch = small_batch(*_BATCH, context.device, masked=False)
    occupied, faults = [], []
    for _ in range(_WARM + _WINDOWS * _STEPS):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        trainer.step(batch)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        occupied.append(_occupied_mib(device))
    ends = occupied[_WARM - 1 :: _STEPS]
    growth, new = min(after - before for before, after in pairwise(ends)), median(faults[_WARM:])
    figures = {"least_growth_mib": growth, "faults": faults, "held_mib": occupied}
    limits = BY_NAME["allocator"].limits
    failures = {"faults": new > limits["faults"], "growth": growth > limits["growth_mib"]}
    return judged(
        "allocator", figures, failures, new_pages=new, growth_mib=max(growth, 0.0), steps=_STEPS
    )


def _occupied_mib(device: torch.device) -> float:
    """Memory of the process: reserved on a GPU, anonymous elsewhere."""
    if device.type == "cuda":
        return float(torch.cuda.memory_reserved(device)) / MIB
    anonymous_mib = resident_now().anon_mib
    if anonymous_mib is None:
        raise SkipError("this system does not report a process's resident memory")
    return anonymous_mib


def huge_pages(context: Context) -> Finding:  # noqa: ARG001
    """Write to a tensor, and look at how much of it is in huge pages."""
    mode = re.search(r"\[(\w+)\]", text_or_empty(_ENABLED))
    if mode is None or mode[1] == "never":
        why = "has no transparent huge pages" if mode is None else "has turned huge pages off"
        raise SkipError(f"this system {why}: steps take longer than on machines with them")
    if _WANTED not in os.environ.get("GLIBC_TUNABLES", ""):
        raise SkipError("GLIBC_TUNABLES configures the allocator without them")
    before = _huge_mib()
    block = torch.empty(BLOCK_MIB, 2**18).fill_(1.0)
    share = (_huge_mib() - before) * MIB / block.nbytes
    failures = {"few": share < BY_NAME["huge-pages"].limits["share"]}
    return judged("huge-pages", {"mode": mode[1], "share": share}, failures, block_mib=BLOCK_MIB)


def _huge_mib() -> float:
    kib = re.search(r"AnonHugePages:\s*(\d+)", text_or_empty(_PAGES))
    if kib is None:
        raise SkipError("this system does not report a process's huge pages")
    return int(kib[1]) / 1024
