"""What else the machine did while a block ran: waiting for a core, throttling, other processes.

Everything is read at the beginning and the end of the block, from counters that the kernel keeps
anyway, so that watching costs nothing in between. What a system doesn't tell stays empty.
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench.probes.gpu import SLOWED, Gpu

WAITED: Final = 0.05
"""Share of its running time that a process may wait for a core before it counts as disturbed."""
STOLEN: Final = 0.05
"""Share of all cores' time that a hypervisor may give to others."""

_PROC: Final = Path("/proc")
_CPUS: Final = Path("/sys/devices/system/cpu")
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class State:
    """The machine's counters at a moment. Times in s since some beginning."""

    at_s: float
    load: float | None
    waited_s: float | None
    ran_s: float | None
    busy_s: float | None
    stolen_s: float | None
    own_cpu_s: float
    quota_throttled_s: float | None
    thermal_throttles: int | None
    frequency_mhz: float | None


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
        frequency_mhz=_frequency(cpus),
    )


@dataclass(frozen=True)
class Watched:
    """What happened between two states, and what of it makes a measurement doubtful.

    `waited` is the time that this process's threads were ready to run and had no core, as a share
    of the time they ran; `foreign_cores` is how many cores others kept busy on average.
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
        """Flags with what led to them."""
        found: dict[str, list[str]] = {"disturbed": [], "throttled": []}
        if self.waited is not None and self.waited > WAITED:
            found["disturbed"].append(f"waited for a core for {self.waited:.0%} of its time")
        if self.stolen is not None and self.stolen > STOLEN:
            found["disturbed"].append(f"{self.stolen:.0%} of the cores' time went to other guests")
        if self.quota_throttled_s:
            found["throttled"].append(
                f"held back by its group's CPU quota for {self.quota_throttled_s:.1f} s"
            )
        if self.thermal_throttles:
            found["throttled"].append(f"cores were slowed {self.thermal_throttles} times by heat")
        if self.frequency is not None and self.frequency < SLOWED:
            found["throttled"].append(f"clocks fell to {self.frequency:.0%}")
        return {flag: "; ".join(reasons) for flag, reasons in found.items() if reasons}


def between(before: State, after: State, cores: int) -> Watched:
    """What happened from one state to another on a machine of so many cores."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    ran = _rise(before.ran_s, after.ran_s)
    waited = _rise(before.waited_s, after.waited_s)
    busy = _rise(before.busy_s, after.busy_s)
    stolen = _rise(before.stolen_s, after.stolen_s)
    own = after.own_cpu_s - before.own_cpu_s
    thermal = _rise(before.thermal_throttles, after.thermal_throttles)
    clocks = (before.frequency_mhz, after.frequency_mhz)
    return Watched(
        seconds=seconds,
        load=before.load,
        waited=waited / ran if waited is not None and ran else None,
        foreign_cores=None if busy is None else max(0.0, busy - own) / seconds,
        stolen=None if stolen is None else stolen / seconds / cores,
        quota_throttled_s=_rise(before.quota_throttled_s, after.quota_throttled_s),
        thermal_throttles=None if thermal is None else int(thermal),
        frequency=clocks[1] / clocks[0] if clocks[0] and clocks[1] else None,
    )


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


class MachineWatch:
    """Watches the machine, and the card if there is one, while it is entered.

    `report` is then everything seen, as JSON, and `doubts` the flags with their reasons.
    """

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu
        self.doubts: dict[str, str] = {}
        self.report: dict[str, Any] = {}

    def __enter__(self) -> "MachineWatch":
        if self._gpu is not None:
            self._gpu.forget()  # of what training showed: only timed steps are doubted
            self._gpu.look()
        self._before = read_state()
        return self

    def look(self) -> None:
        """See what the card does now; to be called while it works, between timed steps."""
        if self._gpu is not None:
            self._gpu.look()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        watched = between(self._before, read_state(), os.cpu_count() or 1)
        self.doubts, self.report = watched.doubts, {"cpu": asdict(watched)}
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
    """Seconds that all cores together were busy, and that a hypervisor took from them."""
    fields = _text(proc / "stat").partition("\n")[0].split()[1:]
    if len(fields) < 8:
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) / ticks for f in fields[:8])
    return user + nice + system + irq + softirq, steal


def _quota_throttled(cgroups: Path) -> float | None:
    """Seconds that the group's CPU quota held its processes back, by cgroup v2 or v1."""
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
