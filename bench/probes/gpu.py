"""A card as its driver sees it: memory of the process, clocks, throttling, heat, other users.

By NVML. A driver or card that doesn't answer a question leaves that answer empty.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

MIB: Final = 2**20

_REASONS: Final = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "heat (software)",
    0x0000000000000040: "heat (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of NVML's throttle reasons that make a time doubtful; idle and set clocks don't."""

SLOWED: Final = 0.85
"""Share of its highest clock frequency below which a card, or a core, counts as throttled."""
OFTEN: Final = 0.05
"""Share of the looks at a card in which it has to be slowed, or used by others, to be doubted."""
BY_PROCESS: Final = "nvml-process"
BY_DEVICE: Final = "nvml-device"


class Gpu:
    """A card, looked at from time to time.

    Args:
        nvml: the module `pynvml`, initialised, or what stands for it.
        handle: its handle of the card.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._used_before_mib = self._used_mib()
        self._energy_before = self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption)
        self.forget()
        self._peak_mib: float | None = None
        self._peak_source: str | None = None

    @classmethod
    def of(cls, uuid: str) -> "Gpu | None":
        """The card with a UUID, as torch has it; None if NVML doesn't know it."""
        import pynvml

        try:
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except pynvml.NVMLError:
            return None

    def forget(self) -> None:
        """Forget what the card did so far; the peak of memory and the energy stay."""
        self._looks = 0
        self._reasons: Counter[str] = Counter()
        self._foreign: Counter[int] = Counter()
        self._clocks: list[int] = []
        self._watts: list[float] = []
        self._heat: list[int] = []

    def _ask(self, question: Callable[..., Any], *more: Any) -> Any:
        try:
            return question(self._handle, *more)
        except self._nvml.NVMLError:
            return None

    def _used_mib(self) -> float | None:
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return None if memory is None else memory.used / MIB

    def look(self) -> None:
        """Take note of what the card does now."""
        nvml = self._nvml
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        self._looks += 1
        self._reasons.update(name for bit, name in _REASONS.items() if (reasons or 0) & bit)
        clock = self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)
        heat = self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        power = self._ask(nvml.nvmlDeviceGetPowerUsage)
        self._clocks += [clock] if clock is not None else []
        self._heat += [heat] if heat is not None else []
        self._watts += [power / 1000] if power is not None else []
        self._look_at_processes()

    def _look_at_processes(self) -> None:
        processes = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses) or []
        own = [process for process in processes if process.pid == os.getpid()]
        used = [p.usedGpuMemory for p in own if p.usedGpuMemory is not None]
        if used:
            self._take_peak(sum(used) / MIB, BY_PROCESS)
            self._foreign.update({process.pid for process in processes} - {os.getpid()})
            return
        # in a container the driver knows this process by another number, or tells of none
        now = self._used_mib()
        if now is not None and self._used_before_mib is not None:
            self._take_peak(now - self._used_before_mib, BY_DEVICE)
        if len(processes) > 1:
            self._foreign.update({process.pid for process in processes})

    def _take_peak(self, mib: float, source: str) -> None:
        if source == self._peak_source or self._peak_source is None:
            self._peak_mib = max(self._peak_mib or 0.0, mib)
            self._peak_source = source

    @property
    def memory(self) -> dict[str, float | str]:
        """The columns of the process's memory on the card, and where they come from."""
        if self._peak_mib is None or self._peak_source is None:
            return {}
        return {
            "peak_process_vram_mib": self._peak_mib,
            "process_vram_source": self._peak_source,
        }

    def energy_j(self) -> float | None:
        """Drawn by the card since this began to look at it, J."""
        now = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        if now is None or self._energy_before is None:
            return None
        return float(now - self._energy_before) / 1000

    @property
    def doubts(self) -> dict[str, str]:
        """Flags with what led to them."""
        found = {}
        if often := [name for name, seen in self._reasons.items() if self._is_often(seen)]:
            found["throttled"] = f"the card was slowed: {', '.join(sorted(often))}"
        elif self._clocks and median(self._clocks) < SLOWED * max(self._clocks):
            share = median(self._clocks) / max(self._clocks)
            found["throttled"] = f"the card's clocks fell to {share:.0%}"
        if any(map(self._is_often, self._foreign.values())):
            found["disturbed"] = "other processes used the card"
        return found

    @property
    def report(self) -> dict[str, Any]:
        """Everything seen, for people: clocks in MHz, temperature in °C, power in W."""
        return {
            "looks": self._looks,
            "throttle_reasons": dict(sorted(self._reasons.items())),
            "other_processes": len(self._foreign),
            "sm_clock_mhz": _range(self._clocks),
            "temperature_c": _range(self._heat),
            "power_w": _range(self._watts),
        }

    def _is_often(self, looks: int) -> bool:
        return looks > OFTEN * self._looks


def _range(values: Sequence[float]) -> dict[str, float]:
    """The least, the usual and the highest of some values; nothing of none."""
    if not values:
        return {}
    return {"least": min(values), "median": median(values), "most": max(values)}
