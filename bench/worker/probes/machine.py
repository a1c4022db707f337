"""Disturbances of a measurement by the machine: no free core, throttling, other processes; and the
energy that the GPU draws, by NVML, or the processor, by RAPL.

The kernel's counters are read at the beginning and the end of a block. Clocks and the GPU are
sampled in between, once a second at most. Values that a system does not provide stay empty.
"""

import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.common.files import text_or_empty
from bench.worker.probes.gpu import SLOWED, Gpu

WAITED: Final = 0.05
"""Share of its running time that a process may wait for a core before it counts as disturbed."""
STOLEN: Final = 0.05
"""Share of all cores' time that a hypervisor may give to other guests."""
HELD_BACK: Final = 0.01
"""Share of the time for which a CPU quota may stop the group's processes."""
HEATED: Final = 1.0
"""Times a minute that heat may slow the cores."""
LOOK_S: Final = 1.0
"""Least seconds between two samples of clocks and GPU."""

_PROC: Final = Path("/proc")
_CPUS: Final = Path("/sys/devices/system/cpu")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_POWERCAP: Final = Path("/sys/class/powercap")
_PACKAGE: Final = re.compile(r"intel-rapl:\d+")


def read_counters() -> dict[str, float]:
    """The machine's counters now, without those that it does not have. Times are in s."""
    times = os.times()
    counters = {"seconds": time.monotonic(), "own_cpu_s": times.user + times.system}
    cores = text_or_empty(_PROC / "stat").partition("\n")[0].split()[1:9]
    if len(cores) == 8:
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(n) / ticks for n in cores)
        counters["busy_s"] = user + nice + system + irq + softirq
        counters["stolen_s"] = steal
    threads = [text_or_empty(path).split() for path in (_PROC / "self/task").glob("*/schedstat")]
    if threads := [fields for fields in threads if len(fields) >= 2]:
        counters["ran_s"] = sum(int(fields[0]) for fields in threads) / 1e9
        counters["waited_s"] = sum(int(fields[1]) for fields in threads) / 1e9
    first = ("cpu/cpu.stat", "throttled_time", 1e9)  # of cgroup v1
    for name, key, unit in (first, ("cpu.stat", "throttled_usec", 1e6)):
        words = text_or_empty(_CGROUPS / name).split()
        if key in words:
            counters["quota_throttled_s"] = int(words[words.index(key) + 1]) / unit
    if throttles := _numbers("cpu*/thermal_throttle/core_throttle_count"):
        counters["thermal_throttles"] = sum(throttles)
    return counters


def summarise(
    rises: Mapping[str, float], cores: int, clocks: Sequence[float] = ()
) -> dict[str, float | None]:
    """Activity of the machine during a measurement; None where it is not known.

    `waited` is the time that this process's threads were ready to run and had no core, as a share
    of the time they ran; `foreign_cores` how many cores other processes kept busy on average;
    `stolen` the share of the cores' time that a hypervisor gave to other guests; `frequency` the
    median of `clocks`, sampled frequencies of the cores, over their highest.
    """
    seconds = max(rises["seconds"], 1e-9)
    busy_s, stolen_s, ran_s = (rises.get(name) for name in ("busy_s", "stolen_s", "ran_s"))
    own_s = rises["own_cpu_s"]
    return {
        "seconds": seconds,
        "waited": rises["waited_s"] / ran_s if ran_s else None,
        "foreign_cores": None if busy_s is None else max(0.0, busy_s - own_s) / seconds,
        "stolen": None if stolen_s is None else stolen_s / seconds / cores,
        "quota_throttled_s": rises.get("quota_throttled_s"),
        "thermal_throttles": rises.get("thermal_throttles"),
        "frequency": median(clocks) / max(clocks) if clocks else None,
    }


def doubts_of(activity: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Flags that an activity raises, each with a reason."""
    seconds, waited, stolen, quota_s, throttles = (
        activity[name] or 0.0
        for name in ("seconds", "waited", "stolen", "quota_throttled_s", "thermal_throttles")
    )
    frequency, often = activity["frequency"] or 1.0, HEATED * seconds / 60
    limits = (
        (waited > WAITED, "disturbed", f"waited for a core for {waited:.0%} of its time"),
        (stolen > STOLEN, "disturbed", f"{stolen:.0%} of the cores' time went to other guests"),
        (quota_s > HELD_BACK * seconds, "throttled",
         f"held back by its group's CPU quota for {quota_s:.1f} s"),
        (throttles > often, "throttled", f"cores were slowed {throttles:.0f} times by heat"),
        (frequency < SLOWED, "throttled", f"clocks fell to {frequency:.0%}"),
    )  # fmt: skip
    return [(flag, why) for is_exceeded, flag, why in limits if is_exceeded]


class MachineWatch:
    """Watches the machine and the GPU, if there is one, within its `with` blocks; `report`, for
    JSON, and `doubts`, the flags with their reasons, cover all of them together."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu
        self._rises: defaultdict[str, float] = defaultdict(float)
        self._clocks: list[float] = []
        self._looked = -math.inf
        self.doubts: dict[str, str] = {}
        self.report: dict[str, Any] = {}

    def __enter__(self) -> "MachineWatch":
        if not self._rises:
            self._load = os.getloadavg()[0]
            if self._gpu is not None:
                self._gpu.forget()  # samples from before the timed steps
        self._before = read_counters()
        self._looked = -math.inf
        self.look()
        return self

    def look(self) -> None:
        """Sample clocks and GPU; to be called while they work, between timed steps."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._gpu is not None:
            # one core feeds the GPU and the others rest: their mean frequency says nothing
            self._gpu.look()
        else:
            self._clocks += _frequencies()

    def __exit__(self, *_: object) -> None:
        after = read_counters()
        for name in self._before.keys() & after.keys():
            self._rises[name] += after[name] - self._before[name]
        activity = summarise(self._rises, os.cpu_count() or 1, self._clocks)
        doubts = doubts_of(activity)
        self.report = {"cpu": {"load": self._load, **activity}}
        if self._gpu is not None:
            doubts += self._gpu.doubts.items()
            self.report["gpu"] = self._gpu.report
        self.doubts = {
            flag: "; ".join(reason for other, reason in doubts if other == flag)
            for flag, _ in doubts
        }
        self.report["doubts"] = self.doubts


def _numbers(pattern: str) -> list[int]:
    return [int(text) for path in _CPUS.glob(pattern) if (text := text_or_empty(path).strip())]


def _frequencies() -> list[float]:
    """The mean clock frequency of the cores, MHz; empty where it is not known."""
    khz = _numbers("cpu[0-9]*/cpufreq/scaling_cur_freq")
    return [sum(khz) / len(khz) / 1000] if khz else []


@dataclass
class Energy:
    """Energy in J, and its source: `nvml` or `rapl`. None where nothing counts it."""

    joules: float | None = None
    source: str | None = None


@contextmanager
def energy(gpu: Gpu | None = None, powercap: Path = _POWERCAP) -> Iterator[Energy]:
    """Measure the energy drawn in the block by the GPU, or without one by the whole processor,
    other processes included."""
    drawn = Energy()
    before = _energy_counters(gpu, powercap)
    yield drawn
    after = _energy_counters(gpu, powercap)
    if before and before.keys() == after.keys():
        drawn.joules = sum((after[key][0] - before[key][0]) % before[key][1] for key in before)
        drawn.source = "rapl" if gpu is None else "nvml"


def _energy_counters(gpu: Gpu | None, powercap: Path) -> dict[str, tuple[float, float]]:
    """Each counter in J, and the value at which it wraps around; empty if one does not answer."""
    if gpu is not None:
        joules = gpu.energy_j()
        return {} if joules is None else {"gpu": (joules, math.inf)}
    packages = [path for path in powercap.glob("intel-rapl:*") if _PACKAGE.fullmatch(path.name)]

    def joules_in(path: Path) -> float:
        return int(path.read_text(encoding="ascii")) / 1e6

    with suppress(OSError, ValueError):  # readable only by root on most systems
        return {
            path.name: (joules_in(path / "energy_uj"), joules_in(path / "max_energy_range_uj"))
            for path in packages
        }
    return {}
