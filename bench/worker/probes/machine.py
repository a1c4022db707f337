"""Disturbances of a measurement by the machine: no free core, throttling, other processes.

The kernel's counters are read at the beginning and the end of a block. Clocks and the GPU are
sampled in between, once a second at most. Values that a system does not provide stay empty.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final

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


@dataclass(frozen=True)
class State:
    """The machine's counters at a moment. Times are in s since an arbitrary start."""

    at_s: float
    load: float | None
    waited_s: float | None
    ran_s: float | None
    busy_s: float | None
    stolen_s: float | None
    own_cpu_s: float
    quota_throttled_s: float | None
    thermal_throttles: int | None


def read_state(proc: Path = _PROC, cpus: Path = _CPUS, cgroups: Path = _CGROUPS) -> State:
    """The counters now."""
    ran, waited = _scheduled(proc)
    busy, stolen = _cores(proc)
    times = os.times()
    return State(
        at_s=time.monotonic(),
        load=_load(proc),
        waited_s=waited,
        ran_s=ran,
        busy_s=busy,
        stolen_s=stolen,
        own_cpu_s=times.user + times.system,
        quota_throttled_s=_quota_throttled(cgroups),
        thermal_throttles=_sum_of(cpus, "cpu*/thermal_throttle/core_throttle_count"),
    )


@dataclass(frozen=True)
class Watched:
    """Activity of the machine during a measurement.

    Attributes:
        waited: the time that this process's threads were ready to run and had no core, as a share
            of the time they ran.
        foreign_cores: how many cores other processes kept busy on average.
        frequency: the median clock frequency of the cores over their highest; None if a GPU does
            the work.
    """

    seconds: float
    load: float | None
    waited: float | None
    foreign_cores: float | None
    stolen: float | None
    quota_throttled_s: float | None
    thermal_throttles: int | None
    frequency: float | None

    @property
    def doubts(self) -> dict[str, str]:
        """Flags with their reasons."""
        flags: dict[str, list[str]] = {"disturbed": [], "throttled": []}
        if self.waited is not None and self.waited > WAITED:
            flags["disturbed"].append(f"waited for a core for {self.waited:.0%} of its time")
        if self.stolen is not None and self.stolen > STOLEN:
            flags["disturbed"].append(f"{self.stolen:.0%} of the cores' time went to other guests")
        if (self.quota_throttled_s or 0.0) > HELD_BACK * self.seconds:
            flags["throttled"].append(
                f"held back by its group's CPU quota for {self.quota_throttled_s:.1f} s"
            )
        if (self.thermal_throttles or 0) > HEATED * self.seconds / 60:
            flags["throttled"].append(f"cores were slowed {self.thermal_throttles} times by heat")
        if self.frequency is not None and self.frequency < SLOWED:
            flags["throttled"].append(f"clocks fell to {self.frequency:.0%}")
        return {flag: "; ".join(reasons) for flag, reasons in flags.items() if reasons}


def watched(
    spans: Sequence[tuple[State, State]], cores: int, clocks: Sequence[float] = ()
) -> Watched:
    """Activity of the machine in several spans of time together.

    Args:
        spans: states at the beginning and the end of each.
        cores: of the machine.
        clocks: sampled frequencies of the cores, MHz.
    """

    def rise(name: str) -> float | None:
        pairs = [(getattr(begin, name), getattr(end, name)) for begin, end in spans]
        if any(value is None for pair in pairs for value in pair):
            return None
        return float(sum(end - begin for begin, end in pairs))

    seconds = max(rise("at_s") or 0.0, 1e-9)
    ran, waited, busy, stolen = map(rise, ("ran_s", "waited_s", "busy_s", "stolen_s"))
    thermal, own = rise("thermal_throttles"), rise("own_cpu_s") or 0.0
    return Watched(
        seconds=seconds,
        load=spans[0][0].load if spans else None,
        waited=waited / ran if waited is not None and ran else None,
        foreign_cores=None if busy is None else max(0.0, busy - own) / seconds,
        stolen=None if stolen is None else stolen / seconds / cores,
        quota_throttled_s=rise("quota_throttled_s"),
        thermal_throttles=None if thermal is None else int(thermal),
        frequency=median(clocks) / max(clocks) if clocks else None,
    )


class MachineWatch:
    """Watches the machine, and the GPU if there is one, within its `with` blocks.

    `report`, for JSON, and `doubts`, the flags with their reasons, cover all blocks together.
    """

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu
        self._spans: list[tuple[State, State]] = []
        self._clocks: list[float] = []
        self._looked = -math.inf
        self.doubts: dict[str, str] = {}
        self.report: dict[str, Any] = {}

    def __enter__(self) -> "MachineWatch":
        if self._gpu is not None and not self._spans:
            self._gpu.forget()  # samples from before the timed steps
        self._before = read_state()
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
            return
        frequency = _frequency(_CPUS)
        self._clocks += [frequency] if frequency is not None else []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._spans.append((self._before, read_state()))
        summary = watched(self._spans, os.cpu_count() or 1, self._clocks)
        self.doubts, self.report = summary.doubts, {"cpu": asdict(summary)}
        if self._gpu is not None:
            for flag, reason in self._gpu.doubts.items():
                self.doubts[flag] = "; ".join(filter(None, (self.doubts.get(flag), reason)))
            self.report["gpu"] = self._gpu.report
        self.report["doubts"] = self.doubts


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _load(proc: Path) -> float | None:
    text = _text(proc / "loadavg")
    return float(text.split()[0]) if text else None


def _scheduled(proc: Path) -> tuple[float | None, float | None]:
    """Seconds that this process's threads have run, and waited to run."""
    ran = waited = 0
    seen = False
    for path in (proc / "self" / "task").glob("*/schedstat"):
        fields = _text(path).split()
        if len(fields) >= 2:
            ran, waited, seen = ran + int(fields[0]), waited + int(fields[1]), True
    return (ran / 1e9, waited / 1e9) if seen else (None, None)


def _cores(proc: Path) -> tuple[float | None, float | None]:
    """Seconds that all cores together were busy, and that a hypervisor gave to other guests."""
    fields = _text(proc / "stat").partition("\n")[0].split()[1:]
    if len(fields) < 8:
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) / ticks for f in fields[:8])
    return user + nice + system + irq + softirq, steal


def _quota_throttled(cgroups: Path) -> float | None:
    """Seconds that the group's CPU quota stopped its processes, by cgroup v2 or v1."""
    for name, key, unit in (
        ("cpu.stat", "throttled_usec", 1e6),
        ("cpu/cpu.stat", "throttled_time", 1e9),
    ):
        for line in _text(cgroups / name).splitlines():
            if line.startswith(f"{key} "):
                return int(line.split()[1]) / unit
    return None


def _sum_of(folder: Path, pattern: str) -> int | None:
    values = [text.strip() for path in folder.glob(pattern) if (text := _text(path))]
    return sum(map(int, values)) if values else None


def _frequency(cpus: Path) -> float | None:
    """Mean clock frequency of the cores, MHz."""
    paths = cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    values = [int(text) / 1000 for path in paths if (text := _text(path).strip())]
    return sum(values) / len(values) if values else None
