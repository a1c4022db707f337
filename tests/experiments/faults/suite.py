"""Many faults: struck on all cores, and counted."""

import os
from collections import Counter
from dataclasses import asdict
from unittest.mock import patch

from tests.experiments.faults.case import run_case
from tests.experiments.faults.checks import counted
from tests.experiments.processes import in_processes

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_suite(faults, *, jobs, folder):
    """What becomes of some faults, `jobs` of them at a time, in processes without threads, as each
    forks its cases' parents."""
    with patch.dict(os.environ, dict.fromkeys(_THREADS, "1")):
        cases = [(run_case, fault, folder) for fault in faults]
        verdicts = [verdict for _, verdict in in_processes(jobs, cases)]
    return sorted(verdicts, key=lambda verdict: verdict.fault.number)


def summary(verdicts, seed, seconds):
    """The counts as plain data, and everything that went wrong."""
    by_kind = {}
    for each in verdicts:
        key = each.fault.kind, each.fault.phase, each.fault.worker
        by_kind.setdefault(key, []).append(each)
    struck = [each for each in verdicts if each.struck]
    return {
        "faults": len(verdicts), "seed": seed, "seconds": round(seconds, 1),
        "injected": len(struck),
        "at_real_workers": sum(each.fault.worker == "real" for each in struck),
        "missed": len(verdicts) - len(struck), **counted(verdicts),
        "means": dict(Counter(each.means for each in verdicts if each.means)),
        "counts": [
            {"kind": kind, "phase": phase, "worker": worker, "injected": injected}
            | {"missed": len(some) - injected, **counted(some)}
            for (kind, phase, worker), some in sorted(by_kind.items())
            for injected in [sum(each.struck for each in some)]
        ],
        "bad": [asdict(verdict) for verdict in verdicts if not verdict.good],
    }  # fmt: skip
