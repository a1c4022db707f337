"""GPU memory by tensors, by torch's allocator and by the driver, when a block comes and goes."""

from typing import Final

import torch

from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.worker.probes.gpu import MIB, Gpu
from bench.worker.probes.memory import cuda_peaks_mib, start_cuda_peaks

Figures = dict[str, float | None]

BLOCK_MIB: Final = 256
ROOM_MIB: Final = 2 * BLOCK_MIB
"""Free memory without which the check is skipped."""
TOLERANCE_MIB: Final = {"allocated": 1.0, "reserved": 32.0, "process": 32.0}
"""By figure. Tensors are counted in blocks of 512 bytes. The allocator asks the driver for units of
2 MiB, or 20 to 32 with expandable segments or cudaMallocAsync, and the driver counts its own pages.
A figure that misses a block, or is not reset, is off by 256. What is used on the whole GPU is noted
only, since other programs, such as a desktop, change it."""


def check(context: Context) -> Finding:
    """Allocate a block, free it and give it back, and read each figure as a worker does."""
    device = torch.device(context.device)
    probes = [Gpu.of(device) for _ in range(2)]  # before torch makes a context
    torch.cuda.set_device(device)
    held = torch.zeros(2**16, device=device).fill_(1)  # makes the context and loads the kernel
    free, _ = torch.cuda.mem_get_info(device)
    if free < ROOM_MIB * MIB:
        raise SkipError(
            f"it needs {ROOM_MIB} MiB of GPU memory, and {free / MIB:,.0f} are free: end the "
            "processes that nvidia-smi lists"
        )
    start_cuda_peaks(device)
    before = _figures(device, probes[0])
    block = torch.empty(BLOCK_MIB * MIB, dtype=torch.uint8, device=device).fill_(1)
    torch.cuda.synchronize(device)
    during = _figures(device, probes[0])
    del block
    start_cuda_peaks(device)
    after = _figures(device, probes[1])
    del held
    return judge(before, during, after)


def judge(before: Figures, during: Figures, after: Figures) -> Finding:
    """The finding from the figures before, while and after a block is allocated."""
    moments = {"before": before, "during": during, "after": after}
    figures = {
        f"{name}_{when}_mib": values[name]
        for name in (*TOLERANCE_MIB, "device")
        for when, values in moments.items()
    }
    wrong, missing, worst = [], [], 0.0
    for name, tolerance in TOLERANCE_MIB.items():
        start, full, end = before[name], during[name], after[name]
        if start is None or full is None or end is None:
            missing.append(name)
            continue
        changes = ("rises", full - start, BLOCK_MIB), ("ends changed", end - start, 0)
        for what, change, expected in changes:
            worst = max(worst, abs(change - expected))
            if abs(change - expected) > tolerance:
                wrong.append(f"{name} {what} by {change:,.0f} MiB, not {expected}")
    process, reserved = before["process"], before["reserved"]
    if process is not None and reserved is not None:
        figures["context_mib"] = process - reserved
    note = f" ({', '.join(missing)} not reported)" if missing else ""
    if wrong:
        remedy = (
            "end other processes on the GPU and repeat; if it fails again, don't use these columns "
            "of memory, and report this"
        )
        return Finding(FAILED, "; ".join(wrong) + note, remedy, figures)
    if "allocated" in missing:
        raise SkipError("torch's allocator counts nothing: PYTORCH_NO_CUDA_MEMORY_CACHING is set")
    summary = f"{BLOCK_MIB} MiB are counted within {worst:.1f} MiB, and peaks are reset{note}"
    return Finding(OK, summary, figures=figures)


def _figures(device: torch.device, gpu: Gpu | None) -> Figures:
    """Peaks by torch since the last reset, the driver's peak of this process, and what is used on
    the whole GPU."""
    if gpu is not None:
        gpu.look()
    peaks = cuda_peaks_mib(device, graphs=False)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": peaks.get("peak_cuda_allocated_mib"),
        "reserved": peaks.get("peak_cuda_reserved_mib"),
        "process": None if gpu is None else gpu.memory.get("peak_process_vram_mib"),
        "device": (total - free) / MIB,
    }
