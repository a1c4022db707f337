"""The GPU as driver, torch's build and NVML see it."""

import os
import time
from contextlib import suppress
from typing import Any, Final

import torch

from bench.common.messages import one_line
from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.machine.conditions import torch_build
from bench.machine.devices import Device, read_driver, resolve_device
from bench.machine.environment import VISIBLE
from bench.worker.failures import is_of_device, is_out_of_memory
from bench.worker.probes.gpu import Gpu

SAMPLES: Final = 20
"""Readings of the GPU while it works. As in a cell, it counts as slowed, or used by others, where
it is in more than 5% of them."""
_SAMPLE_S: Final = 0.05
_WARM_UP_S: Final = 1.0
"""An idle GPU takes some tenths of a second to raise its clocks."""
_SIZE: Final = 1024
_REMEDIES: Final = {
    "disturbed": "end the other processes, which nvidia-smi lists, or take another GPU",
    "throttled": "cool the GPU or lift its limits (nvidia-smi -q -d PERFORMANCE)",
}


def check(context: Context) -> Finding:
    """Try the GPU as before a grid, then look at it while it works, as while a cell runs."""
    version, cuda = torch_build()
    device = resolve_device(context.device, cuda)
    driver = read_driver()
    place = torch.device(context.device)
    gpu = Gpu.of(place)  # before torch makes a context
    try:
        _work(place, _WARM_UP_S)
        for _ in range(SAMPLES):
            _work(place, _SAMPLE_S)
            if gpu is not None:
                gpu.look()
    except RuntimeError as error:
        if device.notes and (is_out_of_memory(error) or is_of_device(error)):
            raise SkipError(f"the GPU is in use by others: {one_line(str(error))}") from error
        raise
    info = device.gpu
    figures: dict[str, Any] = {
        "torch": version, "cuda_of_torch": cuda,
        "architectures_of_torch": torch.cuda.get_arch_list(), "gpu": info and info.name,
        "driver": info and info.driver, "capability": info and list(info.capability),
        "failures": dict(device.failures),
        "nvml": "no driver" if driver is None else driver.problem or "answers",
        "doubts": {} if gpu is None else gpu.doubts, "looks": {} if gpu is None else gpu.report,
        "ecc_errors": _ecc_errors(),
    }  # fmt: skip
    return judge(device, figures)


def judge(device: Device, figures: dict[str, Any]) -> Finding:
    """The finding on a GPU from the result of trying it and the figures."""
    name = f"{figures['gpu']}, driver {figures['driver']}, CUDA {figures['cuda_of_torch']}"
    if device.failures:
        amp, why = next(iter(device.failures.items()))
        types = ", ".join(device.failures)
        remedy = f"leave out amp {types}, or install a driver and a torch that fit this GPU"
        if amp == "off":
            remedy = "install a driver and a torch that fit this GPU, or take the CPU"
        summary = f"{name}: amp {amp} can't compute ({why})"
        return Finding(FAILED, summary, remedy, figures, is_advice="off" not in device.failures)
    if figures["ecc_errors"]:
        summary = f"{name}: {figures['ecc_errors']} uncorrected memory errors since the start"
        remedy = "restart the machine; replace the GPU if they return"
        return Finding(FAILED, summary, remedy, figures)
    if figures["doubts"]:
        flag, why = next(iter(figures["doubts"].items()))
        summary = f"{name}: rows would be flagged {flag}: {why}"
        return Finding(FAILED, summary, _REMEDIES[flag], figures)
    notes = list(device.notes)
    if not device.has_bf16:
        notes.append("bf16 is emulated, and amp = on is fp16")
    if "MIG" in str(figures["gpu"]):
        notes.append("a MIG instance, of which NVML says little: some columns stay empty")
    if figures["nvml"] != "answers":
        notes.append(f"NVML: {figures['nvml']}; its columns and flags stay empty")
    return Finding(OK, "; ".join((name, *notes)), figures=figures)


def _work(device: torch.device, seconds: float) -> None:
    """Keep the GPU busy with products."""
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
