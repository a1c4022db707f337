"""Energy drawn while a block runs: by the GPU from NVML, by the processor from RAPL."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Measure the energy drawn in the block: the GPU's if there is a GPU, else the processor's.

    RAPL counts the whole processor, other processes included.
    """
    drawn = Energy()
    if gpu is not None:
        gpu_before = gpu.energy_j()
        yield drawn
        gpu_after = gpu.energy_j()
        if gpu_before is not None and gpu_after is not None:
            drawn.joules, drawn.source = gpu_after - gpu_before, "nvml"
        return
    before = _packages(powercap)
    yield drawn
    after = _packages(powercap)
    if before and before.keys() == after.keys():
        drawn.joules = sum(_rise(before[key], after[key]) for key in before) / 1e6
        drawn.source = "rapl"


def _packages(powercap: Path) -> dict[str, tuple[int, int]]:
    """Each processor's counter in µJ, and the value at which it wraps around."""
    packages = {}
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if not _PACKAGE.fullmatch(folder.name):
            continue
        try:
            now = int((folder / "energy_uj").read_text(encoding="ascii"))
            end = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):  # readable only by root on most systems
            return {}
        packages[folder.name] = (now, end)
    return packages


def _rise(before: tuple[int, int], after: tuple[int, int]) -> int:
    rise = after[0] - before[0]
    return rise if rise >= 0 else rise + before[1]
