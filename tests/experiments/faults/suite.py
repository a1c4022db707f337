"""Many faults: struck on all cores, and counted."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from rich.table import Table

from tests.experiments.faults.case import Verdict, run_case
from tests.experiments.faults.kinds import KINDS, Fault
from tests.experiments.faults.setups import setup

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WORKERS: Final = ("fake", "real")
_BAD: Final = ("lost", "duplicated", "left_running", "wrong")


def run_suite(
    faults: Sequence[Fault],
    *,
    jobs: int,
    folder: Path,
    on_verdict: Callable[[Verdict], None] = lambda _: None,
) -> list[Verdict]:
    """What becomes of some faults, `jobs` of them at a time.

    Each of the processes that this takes forks its cases' parents, so it has no threads.
    """
    workers = sorted({fault.worker for fault in faults})
    with (
        patch.dict(os.environ, dict.fromkeys(_THREADS, "1")),
        ProcessPoolExecutor(jobs, get_context("spawn"), _prepare, (workers,)) as pool,
    ):
        futures = [pool.submit(run_case, fault, folder) for fault in faults]
        try:
            found = []
            for future in as_completed(futures):
                found.append(future.result())
                on_verdict(found[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(found, key=lambda verdict: verdict.fault.number)


def _prepare(workers: Sequence[str]) -> None:
    for worker in workers:
        setup(worker)


def counted(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, str], Counter[str]]:
    """By kind, phase and worker: injected, missed, and how many went wrong in which way."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for verdict in verdicts:
        fault = verdict.fault
        counts = found.setdefault((fault.kind, fault.phase, fault.worker), Counter())
        counts["injected" if verdict.struck else "missed"] += 1
        for name in _BAD:
            counts[name] += len(getattr(verdict, name))
    return found


def table(verdicts: Sequence[Verdict]) -> Table:
    """The counts by kind and phase, and their sums."""
    counts = counted(verdicts)
    shown = Table(title=f"{len(verdicts)} faults", title_justify="left", show_footer=True)
    total: Counter[str] = Counter()
    rows: list[list[str]] = []
    for kind in KINDS:
        for phase in kind.phases:
            sums: Counter[str] = Counter()
            for worker in _WORKERS:
                found = counts.get((kind.name, phase, worker), Counter())
                sums += Counter({worker: found["injected"]}) + found
            if sums:
                rows.append([kind.name, phase, *_numbers(sums)])
                total += sums
    shown.add_column("kind", "all")
    shown.add_column("phase", "")
    names = ("fake worker", "real worker", "missed", "lost", "duplicated", "left running", "wrong")
    for name, number in zip(names, _numbers(total), strict=True):
        shown.add_column(name, number, justify="right")
    last = ""
    for kind_name, *others in rows:
        shown.add_row("" if kind_name == last else kind_name, *others)
        last = kind_name
    return shown


def _numbers(sums: Counter[str]) -> list[str]:
    return [str(sums[name]) for name in (*_WORKERS, "missed", *_BAD)]


def summary(verdicts: Sequence[Verdict], seed: int, seconds: float) -> dict[str, Any]:
    """The counts as plain data, and everything that went wrong."""
    total: Counter[str] = sum(counted(verdicts).values(), Counter())
    return {
        "faults": len(verdicts),
        "seed": seed,
        "seconds": round(seconds, 1),
        "injected": total["injected"],
        "at_real_workers": sum(v.struck and v.fault.worker == "real" for v in verdicts),
        "missed": total["missed"],
        **{name: total[name] for name in _BAD},
        "means": dict(Counter(v.means for v in verdicts if v.means)),
        "counts": [
            {"kind": kind, "phase": phase, "worker": worker}
            | {name: found[name] for name in ("injected", "missed", *_BAD)}
            for (kind, phase, worker), found in sorted(counted(verdicts).items())
        ],
        "bad": [asdict(verdict) for verdict in verdicts if not verdict.good],
    }
