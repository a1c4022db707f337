"""Memory that runs out: a cell that needs too much of it, and one that fits by 100 MiB."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from bench.doctor.cells import run_cells
from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.plan.rows import Row

SETTINGS: Final = {
    "model": "bert-mini", "init": "random", "epochs": 1, "max_steps": 2, "max_train": 512,
    "max_dev": 8,
}  # fmt: skip
SIZES: Final = (8, 512)
"""Texts in a batch of the small and of the large cell, which has all in one: some 700 MiB of
activations more."""
SMALL, LARGE = ({"mode": ["full"], "batch_size": [size]} for size in SIZES)
ROOM_MIB: Final = 100
"""What the small cell has left."""
MIB: Final = 2**20


def check(context: Context) -> Finding:
    """Run the small cell without a limit to see its need, and both cells with 100 MiB more."""
    needed = _Needed()
    [first] = run_cells(context, SETTINGS, [SMALL], name="unlimited", on_poll=needed.read)
    if not first.is_ok:
        summary = f"a small cell ended {first.status} with all memory: {first.message}"
        return Finding(FAILED, summary, "mend that first")
    if context.device == "cpu":
        limit_mib = needed.mib + ROOM_MIB
        rows = run_cells(
            context, SETTINGS, [SMALL, LARGE], name="limited", address_space=int(limit_mib * MIB)
        )
    else:
        if first.peak_process_vram_mib is None:
            raise SkipError("NVML does not report the memory of this GPU")
        limit_mib = first.peak_process_vram_mib + ROOM_MIB
        with _filled(context.device, limit_mib):
            rows = run_cells(context, SETTINGS, [SMALL, LARGE], name="limited")
    return judge(rows, limit_mib)


def judge(rows: list[Row], limit_mib: float) -> Finding:
    """The finding from the rows of both cells under the limit."""
    by_size: dict[Any, Row] = {row.batch_size: row for row in rows}
    small, large = map(by_size.get, SIZES)
    figures = {
        "limit_mib": limit_mib, "small": small and small.status, "large": large and large.status,
        "large_message": large and large.message,
    }  # fmt: skip
    remedy = "report this, with the JSON; until then look at rows that are not ok one by one"
    if small is None or not small.is_ok:
        how = "has no row" if small is None else f"ended {small.status} ({small.message})"
        summary = f"a cell that fits by {ROOM_MIB} MiB {how}"
        return Finding(FAILED, summary, remedy, figures)
    if large is None or large.status != "oom":
        how = "has no row" if large is None else f"ended {large.status}, not oom ({large.message})"
        summary = f"a cell that needs more memory than there is {how}"
        return Finding(FAILED, summary, remedy, figures)
    summary = (
        f"with {limit_mib:,.0f} MiB, a cell that fits by {ROOM_MIB} MiB ended ok, and one that "
        "does not fit ended oom"
    )
    return Finding(OK, summary, figures=figures)


class _Needed:
    """The most address space that a worker of a grid has mapped, MiB."""

    def __init__(self) -> None:
        self.mib = 0.0

    def read(self, grid: int) -> None:
        """Read the kernel's peak of each worker that the grid runs now."""
        with suppress(psutil.Error, OSError):  # they end at any time
            for process in psutil.Process(grid).children(recursive=True):
                if "bench.worker" in process.cmdline():
                    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                    for line in status.splitlines():
                        if line.startswith("VmPeak:"):
                            self.mib = max(self.mib, int(line.split()[1]) / 1024)


@contextmanager
def _filled(device: str, left_mib: float) -> Iterator[None]:
    """Fill a GPU within the block, until so much of it is free."""
    import torch

    torch.cuda.set_device(torch.device(device))
    free, _ = torch.cuda.mem_get_info()
    filler = torch.empty(max(0, free - int(left_mib * MIB)), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del filler
        torch.cuda.empty_cache()
