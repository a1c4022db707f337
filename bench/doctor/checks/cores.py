"""Affinity, CPU quota and threads, and what all threads give over one."""

import os
from typing import Final

import torch

from bench.doctor.check import FAILED, OK, Context, Finding
from bench.doctor.load import product_seconds
from bench.machine.conditions import cpu_quota
from bench.worker.probes.machine import read_counters

_WINDOWS: Final = 6
_ALONE_S: Final = 0.2
_WINDOW_S: Final = 0.4
"""Several periods of a CPU quota, 0.1 s each, so that none has a window without being held back."""
GAIN: Final = 0.4
"""The least gain of each further thread: clocks fall by up to a third if all cores work, and
products share caches. Threads that share a core gain nothing."""
MOST: Final = 16
"""Threads of the load: with more, memory and clocks take from the gain of each on a sound host."""
SHARE: Final = 0.75
"""The least share of the threads' time that they run in the best window: all of it on an idle
machine, and under a quota what the quota allows, in every window."""


def check(context: Context) -> Finding:
    """Compare the threads with the cores, and products of all threads with those of one, by the
    fastest product and the best window: other programs may come and go."""
    threads, quota = context.threads, cpu_quota()
    used = min(threads, MOST)
    allowed = len(os.sched_getaffinity(0))
    alone, together, shares = [], [], []
    for _ in range(_WINDOWS):
        torch.set_num_threads(1)
        alone.append(min(product_seconds(_ALONE_S, used)))
        torch.set_num_threads(used)
        before = read_counters()
        together.append(min(product_seconds(_WINDOW_S, used)))
        after = read_counters()
        cpu_s, seconds = (after[name] - before[name] for name in ("own_cpu_s", "seconds"))
        shares.append(cpu_s / seconds / used)
    speedup = min(alone) / min(together)
    figures = {"threads": threads, "allowed_cores": allowed, "quota_cores": quota,
               "speedup": speedup, "shares": shares}  # fmt: skip
    summary = f"{used} threads on {allowed} cores: {speedup:.2f} times as fast as one"
    if threads > min(allowed, quota or threads):
        limit = f"quota allows {quota}" if threads <= allowed else f"affinity allows {allowed}"
        summary = f"{threads} threads are used, and the CPU {limit}"
    elif max(shares) < SHARE:
        summary = f"{used} threads run for {max(shares):.0%} of the time, as under a CPU quota"
    elif speedup >= 1 + GAIN * (used - 1) or used == 1:
        return Finding(OK, summary, figures=figures)
    remedy = "give this container whole cores, or run under taskset with as many as there are"
    return Finding(FAILED, summary, remedy, figures)
