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
from tests.experiments.faults.checks import counted
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


def summary(verdicts: Sequence[Verdict], seed: int, seconds: float) -> dict[str, Any]:
    """The counts as plain data, and everything that went wrong."""
    by_kind: dict[tuple[str, str, str], list[Verdict]] = {}
    for each in verdicts:
        key = each.fault.kind, each.fault.phase, each.fault.worker
        by_kind.setdefault(key, []).append(each)
    struck = [each for each in verdicts if each.struck]
    return {
        "faults": len(verdicts),
        "seed": seed,
        "seconds": round(seconds, 1),
        "injected": len(struck),
        "at_real_workers": sum(each.fault.worker == "real" for each in struck),
        "missed": len(verdicts) - len(struck),
        **counted(verdicts),
        "means": dict(Counter(each.means for each in verdicts if each.means)),
        "counts": [
            {"kind": kind, "phase": phase, "worker": worker, "injected": injected}
            | {"missed": len(some) - injected, **counted(some)}
            for (kind, phase, worker), some in sorted(by_kind.items())
            for injected in [sum(each.struck for each in some)]
        ],
        "bad": [asdict(verdict) for verdict in verdicts if not verdict.good],
    }
