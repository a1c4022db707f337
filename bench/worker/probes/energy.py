"""Energy drawn while a block runs: of the GPU by NVML, of the processor by RAPL."""

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
    """J drawn, and who counted them: `nvml` or `rapl`. None where nobody does."""

    joules: float | None = None
    source: str | None = None


@contextmanager
def energy(gpu: Gpu | None = None, powercap: Path = _POWERCAP) -> Iterator[Energy]:
    """What the block draws: on a GPU what that draws, if it says so, and never the processor's.

    By RAPL it is the whole processor, other processes included.
    """
    found = Energy()
    if gpu is not None:
        card_before = gpu.energy_j()
        yield found
        card_after = gpu.energy_j()
        if card_before is not None and card_after is not None:
            found.joules, found.source = card_after - card_before, "nvml"
        return
    before = _packages(powercap)
    yield found
    after = _packages(powercap)
    if before and before.keys() == after.keys():
        found.joules = sum(_rise(before[key], after[key]) for key in before) / 1e6
        found.source = "rapl"


def _packages(powercap: Path) -> dict[str, tuple[int, int]]:
    """Each processor's counter in µJ, and the value after which it begins again."""
    found = {}
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if not _PACKAGE.fullmatch(folder.name):
            continue
        try:
            now = int((folder / "energy_uj").read_text(encoding="ascii"))
            end = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):  # readable to root alone on most systems
            return {}
        found[folder.name] = (now, end)
    return found


def _rise(before: tuple[int, int], after: tuple[int, int]) -> int:
    rise = after[0] - before[0]
    return rise if rise >= 0 else rise + before[1]
