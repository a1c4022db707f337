"""A GPU as its driver sees it: memory of the process, clocks, throttling, heat, other users.

NVML answers; a question that the driver or GPU does not answer stays empty.
"""

import os
from collections import Counter
from contextlib import suppress
from statistics import median
from typing import Any, Final

import torch

MIB: Final = 2**20

_POWER_CAP: Final = "power cap"
_REASONS: Final = {
    0x0000000000000004: _POWER_CAP,
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "heat (software)",
    0x0000000000000040: "heat (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of NVML's reasons for lower clocks; those for idle or configured clocks are left out.

All but the power cap make a time doubtful. A GPU with little power for its clocks, such as a T4, is
at its power cap whenever it works: that is its normal speed, and is only reported.
"""

SLOWED: Final = 0.85
"""Share of its highest clock frequency below which a GPU, or a core, counts as throttled."""
OFTEN: Final = 0.05
"""Share of the samples in which a GPU has to be slowed, or used by others, for a flag."""
OTHERS: Final = 0.05
"""Share of a GPU's memory; with more held by others, lack of it is theirs. A desktop holds less."""
BY_PROCESS: Final = "nvml-process"
BY_DEVICE: Final = "nvml-device"

_CLOCK: Final = "sm_clock_mhz"
_SAMPLED: Final = {
    _CLOCK: ("ClockInfo", "NVML_CLOCK_SM"),
    "temperature_c": ("Temperature", "NVML_TEMPERATURE_GPU"),
    "power_mw": ("PowerUsage",),
}
"""Questions to NVML by what they give."""


class Gpu:
    """Samples of a GPU's state, and in `memory` the columns of the process's peak on it.

    Memory in use when this is made counts as that of other processes, so it is made before torch
    has a context on the GPU.

    Args:
        nvml: the initialised module `pynvml`, or a stand-in; None: no question is answered.
        handle: its handle of the GPU.
    """

    def __init__(self, nvml: Any = None, handle: Any = None) -> None:
        self._nvml = nvml
        self._handle = handle
        self._used_before_mib = self._used_mib()
        self.forget()
        self.memory: dict[str, Any] = {}

    @classmethod
    def of(cls, device: torch.device) -> "Gpu | None":
        """The GPU of a device; None for the CPU. Its name is read from `CUDA_VISIBLE_DEVICES`,
        since torch would make its context when asked. A GPU without a name there, or unknown to
        NVML, answers no question."""
        if device.type != "cuda":
            return None
        import pynvml

        index, names = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        name = names[index].strip() if index < len(names) else ""
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
        return cls()

    def forget(self) -> None:
        """Forget all samples so far, but not the peak of memory."""
        self._looks = 0
        self._reasons: Counter[str] = Counter()
        self._foreign: Counter[int] = Counter()
        self._samples: dict[str, list[float]] = {name: [] for name in _SAMPLED}
        self._clocks_below_cap: list[float] = []

    def _ask(self, question: str, *names: str) -> Any:
        """NVML's answer to `nvmlDeviceGet…` on constants of some names; None if it has none."""
        ask = getattr(self._nvml, f"nvmlDeviceGet{question}", None)
        if ask is None:
            return None
        with suppress(self._nvml.NVMLError):
            return ask(self._handle, *(getattr(self._nvml, name) for name in names))

    def _used_mib(self) -> float | None:
        memory = self._ask("MemoryInfo")
        return None if memory is None else memory.used / MIB

    def look(self) -> None:
        bits = self._ask("CurrentClocksEventReasons")
        if bits is None:  # the old name of the same question
            bits = self._ask("CurrentClocksThrottleReasons") or 0
        reasons = [name for bit, name in _REASONS.items() if bits & bit]
        self._looks += 1
        self._reasons.update(reasons)
        for name, question in _SAMPLED.items():
            value = self._ask(*question)
            self._samples[name] += [value] if value is not None else []
            if name == _CLOCK and value is not None and _POWER_CAP not in reasons:
                self._clocks_below_cap.append(value)
        self._look_at_processes()

    @property
    def is_held_by_others(self) -> bool:
        """Whether other processes hold much of its memory: now, or where the driver does not list
        this process when it began."""
        memory, (_, own) = self._ask("MemoryInfo"), self._processes()
        if memory is None or self._used_before_mib is None:
            return False
        others = memory.used / MIB - sum(own) / MIB if own else self._used_before_mib
        return bool(others > OTHERS * memory.total / MIB)

    def _processes(self) -> tuple[list[Any], list[int]]:
        """The processes on the GPU, and the memory of this one, as far as it is known."""
        processes = self._ask("ComputeRunningProcesses") or []
        own = [process for process in processes if process.pid == os.getpid()]
        return processes, [p.usedGpuMemory for p in own if p.usedGpuMemory is not None]

    def _look_at_processes(self) -> None:
        processes, used = self._processes()
        if used:
            self._take_peak(sum(used) / MIB, BY_PROCESS)
            self._foreign.update({process.pid for process in processes} - {os.getpid()})
            return
        # in a container the driver lists this process under another id, or not at all
        now = self._used_mib()
        if now is not None and self._used_before_mib is not None:
            self._take_peak(now - self._used_before_mib, BY_DEVICE)
        if len(processes) > 1:
            self._foreign.update({process.pid for process in processes})

    def _take_peak(self, mib: float, source: str) -> None:
        """Keep a higher peak, but none of another source than the first."""
        peak = self.memory or {"peak_process_vram_mib": 0.0, "process_vram_source": source}
        if peak["process_vram_source"] == source:
            peak["peak_process_vram_mib"] = max(mib, peak["peak_process_vram_mib"])
            self.memory = peak

    def energy_j(self) -> float | None:
        millijoules = self._ask("TotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) / 1000

    @property
    def doubts(self) -> dict[str, str]:
        flags = {}
        seen, clocks = self._reasons, self._clocks_below_cap
        often = [name for name in seen if name != _POWER_CAP and self._is_often(seen[name])]
        if often:
            flags["throttled"] = f"the GPU was slowed: {', '.join(sorted(often))}"
        elif clocks and median(clocks) < SLOWED * max(clocks):
            share = median(clocks) / max(clocks)
            flags["throttled"] = f"the GPU's clocks fell to {share:.0%}"
        if any(map(self._is_often, self._foreign.values())):
            flags["disturbed"] = "other processes used the GPU"
        return flags

    @property
    def report(self) -> dict[str, Any]:
        return {
            "looks": self._looks,
            "throttle_reasons": dict(sorted(self._reasons.items())),
            "other_processes": len(self._foreign),
            **{
                name: {"least": min(values), "median": median(values), "most": max(values)}
                for name, values in self._samples.items()
                if values
            },
        }

    def _is_often(self, looks: int) -> bool:
        return looks > OFTEN * self._looks
