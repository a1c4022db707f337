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

from tests.experiments.faults.case import Verdict, run_case
from tests.experiments.faults.checks import BAD
from tests.experiments.faults.kinds import Fault
from tests.experiments.faults.setups import setup

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
            verdicts = []
            for future in as_completed(futures):
                verdicts.append(future.result())
                on_verdict(verdicts[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(verdicts, key=lambda verdict: verdict.fault.number)


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
        for name in BAD:
            counts[name] += len(getattr(verdict, name))
    return found


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
        **{name: total[name] for name in BAD},
        "means": dict(Counter(v.means for v in verdicts if v.means)),
        "counts": [
            {"kind": kind, "phase": phase, "worker": worker}
            | {name: found[name] for name in ("injected", "missed", *BAD)}
            for (kind, phase, worker), found in sorted(counted(verdicts).items())
        ],
        "bad": [asdict(verdict) for verdict in verdicts if not verdict.good],
    }
