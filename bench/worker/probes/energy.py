"""Energy drawn while a block runs: by the GPU from NVML, by the processor from RAPL."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.worker.probes.gpu import Gpu

_POWERCAP: Final = Path("/sys/class/powercap")
_PACKAGE: Final = re.compile(r"intel-rapl:\d+")


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
    before = _counters(gpu, powercap)
    yield drawn
    after = _counters(gpu, powercap)
    if before and before.keys() == after.keys():
        drawn.joules = sum((after[key][0] - before[key][0]) % before[key][1] for key in before)
        drawn.source = "rapl" if gpu is None else "nvml"


def _counters(gpu: Gpu | None, powercap: Path) -> dict[str, tuple[float, float]]:
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
