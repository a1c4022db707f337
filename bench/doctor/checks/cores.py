"""Affinity, CPU quota and threads, and what all threads give over one."""

import os
from typing import Final

import torch

from bench.doctor.check import FAILED, OK, Context, Finding
from bench.doctor.load import product_seconds
from bench.machine.conditions import cpu_quota
from bench.worker.probes.machine import HELD_BACK, read_counters

_WINDOWS: Final = 4
_WINDOW_S: Final = 0.4
"""Several periods of a CPU quota, 0.1 s each, so that it shows in a window's mean."""
GAIN: Final = 0.4
"""The least gain of each further thread: clocks fall by up to a third if all cores work, and
products share caches. Threads that share a core, or a quota, gain nothing."""


def check(context: Context) -> Finding:
    """Compare the threads with the cores, and products of all threads with those of one."""
    threads, quota = context.threads, cpu_quota()
    allowed = len(os.sched_getaffinity(0))
    before = read_counters().get("quota_throttled_s", 0.0)
    alone: list[float] = []
    together: list[float] = []
    for _ in range(_WINDOWS):
        for count, results in ((1, alone), (threads, together)):
            torch.set_num_threads(count)
            durations = product_seconds(_WINDOW_S, threads)
            results.append(sum(durations) / len(durations))
    held_s = read_counters().get("quota_throttled_s", 0.0) - before
    speedup = min(alone) / min(together)
    figures = {
        "threads": threads,
        "allowed_cores": allowed,
        "quota_cores": quota,
        "speedup": speedup,
        "quota_throttled_s": held_s,
    }
    summary = f"{threads} threads on {allowed} cores: {speedup:.2f} times as fast as one"
    if threads > min(allowed, quota or threads):
        limit = f"quota allows {quota}" if threads <= allowed else f"affinity allows {allowed}"
        summary = f"{threads} threads are used, and the CPU {limit}"
    elif held_s > HELD_BACK * 2 * _WINDOWS * _WINDOW_S:
        summary += f", and a CPU quota held them back for {held_s:.1f} s"
    elif threads == 1 or speedup >= 1 + GAIN * (threads - 1):
        return Finding(OK, summary, figures=figures)
    remedy = "give this container whole cores, or run under taskset with as many as there are"
    return Finding(FAILED, summary, remedy, figures)
