"""A GPU's driver as `pynvml` shows it."""

from types import SimpleNamespace
from typing import Any, Final

MIB: Final = 2**20

ANSWERS: Final = {
    "TotalEnergyConsumption": 5_000, "MemoryInfo": SimpleNamespace(used=1000 * MIB),
    "CurrentClocksEventReasons": 0, "ClockInfo": 1980, "Temperature": 40, "PowerUsage": 300_000,
    "ComputeRunningProcesses": [],
}  # fmt: skip


class FakeNvml:
    """Knows GPUs and MIG instances by their names; what it answers can be set: by question, without
    `nvmlDeviceGet`, what makes the answer, or it; None is an error."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *names: str, **answers: Any) -> None:
        self.names = names
        self.answers: dict[str, Any] = {**ANSWERS, **answers}

    def __getattr__(self, name: str) -> Any:
        def ask(handle: str, *_more: object) -> Any:
            question = name.removeprefix("nvmlDeviceGet")
            if question == "HandleByUUID":
                answer = handle if handle in self.names else None
            else:
                answer = self.answers.get(question)
            if answer is None:
                raise self.NVMLError
            return answer() if callable(answer) else answer

        if name == "nvmlInit":
            return lambda: None
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)
        return ask


def used(mib: int, of: int = 80_000) -> SimpleNamespace:
    return SimpleNamespace(used=mib * MIB, total=of * MIB)


def process(pid: int, mib: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
