"""The GPU as driver, torch's build and NVML see it, and its memory when a block comes and goes."""

import os
import time
from contextlib import suppress
from typing import Any, Final

import torch

from bench.common.messages import one_line
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.machine.conditions import torch_build
from bench.machine.devices import Device, read_driver, resolve_device
from bench.machine.environment import VISIBLE
from bench.worker.device import is_of_device
from bench.worker.probes.gpu import MIB, Gpu
from bench.worker.probes.memory import cuda_peaks_mib, start_cuda_peaks
from minbert.errors import is_out_of_memory

SAMPLES: Final = 20
"""Readings of the GPU while it works. As in a cell, it counts as slowed, or used by others, where
it is in more than 5% of them."""
_SAMPLE_S: Final = 0.05
_WARM_UP_S: Final = 1.0  # an idle GPU takes some tenths of a second to raise its clocks
_SIZE: Final = 1024

BLOCK_MIB: Final = 256
ROOM_MIB: Final = 2 * BLOCK_MIB


def driver(context: Context) -> Finding:
    """Try the GPU as before a grid, then look at it while it works, as while a cell runs."""
    version, cuda = torch_build()
    device = resolve_device(context.device, cuda)
    nvml = read_driver()
    place = torch.device(context.device)
    gpu = Gpu.of(place)  # before torch makes a context
    try:
        _work(place, _WARM_UP_S)
        for _ in range(SAMPLES):
            _work(place, _SAMPLE_S)
            if gpu is not None:
                gpu.look()
    except Exception as error:
        if device.notes and (is_out_of_memory(error) or is_of_device(error)):
            raise SkipError(f"the GPU is in use by others: {one_line(str(error))}") from error
        raise
    info = device.gpu
    figures: dict[str, Any] = {
        "torch": version, "cuda_of_torch": cuda,
        "architectures_of_torch": torch.cuda.get_arch_list(), "gpu": info and info.name,
        "driver": info and info.driver, "capability": info and list(info.capability),
        "failures": dict(device.failures),
        "nvml": "no driver" if nvml is None else nvml.problem or "answers",
        "doubts": {} if gpu is None else gpu.doubts, "looks": {} if gpu is None else gpu.report,
        "ecc_errors": _ecc_errors(),
    }  # fmt: skip
    return judge_driver(device, figures)


def judge_driver(device: Device, figures: dict[str, Any]) -> Finding:
    failed, doubts, nvml = device.failures, figures["doubts"], figures["nvml"]
    notes = {
        "bf16 is emulated, and amp = on is fp16": not device.has_bf16,
        "a MIG instance, of which NVML says little: some columns stay empty": (
            "MIG" in str(figures["gpu"])
        ),
        f"NVML: {nvml}; its columns and flags stay empty": nvml != "answers",
    }
    every = [*device.notes, *(note for note, applies in notes.items() if applies)]
    amp, why = next(iter((failed or doubts).items()), ("", ""))
    failures = {"off": "off" in failed, "amp": failed, "ecc": figures["ecc_errors"], **doubts}
    return judged(
        "driver", figures, failures, amp=amp, why=why, types=", ".join(failed),
        notes="".join(f"; {note}" for note in every),
    )  # fmt: skip


def _work(device: torch.device, seconds: float) -> None:
    matrix = torch.ones(_SIZE, _SIZE, device=device)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(10):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()


def _ecc_errors() -> int | None:
    """Memory errors since the driver was loaded that were not corrected; None without ECC."""
    import pynvml as nvml

    with suppress(nvml.NVMLError):
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(os.environ.get(VISIBLE, "").partition(",")[0])
        kinds = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, *kinds))
    return None


def memory(context: Context) -> Finding:
    """Allocate a block, free it and give it back, and read each figure as a worker does."""
    device = torch.device(context.device)
    probes = [Gpu.of(device) for _ in range(2)]  # before torch makes a context
    torch.cuda.set_device(device)
    first = torch.zeros(2**16, device=device).fill_(1)  # makes the context and loads the kernel
    free, _ = torch.cuda.mem_get_info(device)
    if free < ROOM_MIB * MIB:
        raise SkipError(
            f"it needs {ROOM_MIB} MiB of GPU memory, and {free / MIB:,.0f} are free: end the "
            "processes that nvidia-smi lists"
        )
    start_cuda_peaks(device)
    moments = {"before": _figures(device, probes[0])}
    block = torch.empty(BLOCK_MIB * MIB, dtype=torch.uint8, device=device).fill_(1)
    torch.cuda.synchronize(device)
    moments["during"] = _figures(device, probes[0])
    del block
    start_cuda_peaks(device)
    moments["after"] = _figures(device, probes[1])
    del first
    limits = BY_NAME["gpu-memory"].limits
    figures = {
        f"{name}_{when}_mib": values[name]
        for name in (*limits, "device")
        for when, values in moments.items()
    }
    wrong, missing, worst = [], [], 0.0
    for name, tolerance in limits.items():
        start, full, end = (values[name] for values in moments.values())
        if start is None or full is None or end is None:
            missing.append(name)
            continue
        changes = ("rises", full - start, BLOCK_MIB), ("ends changed", end - start, 0)
        for what, change, expected in changes:
            worst = max(worst, abs(change - expected))
            if abs(change - expected) > tolerance:
                wrong.append(f"{name} {what} by {change:,.0f} MiB, not {expected}")
    process, reserved = (moments["before"][name] for name in ("process", "reserved"))
    if process is not None and reserved is not None:
        figures["context_mib"] = process - reserved
    if "allocated" in missing and not wrong:
        raise SkipError("torch's allocator counts nothing: PYTORCH_NO_CUDA_MEMORY_CACHING is set")
    return judged(
        "gpu-memory", figures, {"wrong": wrong}, worst_mib=worst,
        note=f" ({', '.join(missing)} not reported)" if missing else "", block_mib=BLOCK_MIB,
    )  # fmt: skip


def _figures(device: torch.device, gpu: Gpu | None) -> dict[str, float | None]:
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
