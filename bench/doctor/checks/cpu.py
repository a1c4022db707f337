"""The processor: programs and guests that take its cores, the gain of each thread, and its speed
under load. Other programs may come and go, so that best or median windows count."""

import os
import time
from statistics import median
from typing import Final

import torch

from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.machine.conditions import cpu_quota
from bench.worker.probes.gpu import SLOWED
from bench.worker.probes.machine import STOLEN, WAITED, MachineWatch, read_counters

_SIDE: Final = 512
"""Of the load's matrices, which stay in a core's cache, so that memory does not limit products."""

_BUSY_WINDOWS, _BUSY_S = 7, 0.6
LIMITS: Final = {"waited": 2 * WAITED, "stolen": 2 * STOLEN}
"""Twice the shares above which a row is flagged as disturbed: the median of the windows is above
them only if something runs all the time, such as a program that keeps one of ten cores busy."""
_MEANINGS: Final = {
    "waited": "the threads waited {:.2f} s for a core for each second they ran",
    "stolen": "{:.0%} of the cores' time went to other guests of this host",
}

_CORE_WINDOWS, _ALONE_S, _TOGETHER_S = 6, 0.2, 0.4
"""The last is several periods of a CPU quota, 0.1 s each: a quota slows every window."""
MOST: Final = 16
"""Threads of the load: with more, memory and clocks take from the gain of each on a sound host."""

_SPEED_WINDOWS, _SPEED_S, _LAST = 10, 0.5, 3


def product_seconds(window_s: float, threads: int) -> list[float]:
    """The duration of each product in a window; the matrices' rows grow with the threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_SIDE * threads, _SIDE, generator=generator)
    weight = torch.randn(_SIDE, _SIDE, generator=generator)
    durations: list[float] = []
    end = time.perf_counter() + window_s
    while (begun := time.perf_counter()) < end or not durations:
        torch.mm(x, weight)
        durations.append(time.perf_counter() - begun)
    return durations


def disturbance(context: Context) -> Finding:
    """Keep all threads busy and compare medians over windows with the limits: of the time that the
    threads wait for a core, and of that which other guests get."""
    product_seconds(_BUSY_S, context.threads)
    windows = []
    for _ in range(_BUSY_WINDOWS):
        with MachineWatch() as machine:
            product_seconds(_BUSY_S, context.threads)
        windows.append(machine.report["cpu"])
    shares = {
        name: median(values)
        for name in (*LIMITS, "foreign_cores")
        if (values := [each[name] for each in windows if each[name] is not None])
    }
    if not shares.keys() & LIMITS:
        raise SkipError("this system does not count the time that threads wait for a core")
    texts = [_MEANINGS[name].format(shares[name]) for name in LIMITS if shares.get(name)]
    waited, busy = shares.get("waited", 0.0), shares.get("foreign_cores")
    blame = BY_NAME["disturbance"].limits["blame"]
    given = context.threads * waited / (1 + waited)  # cores
    if busy is not None and waited > LIMITS["waited"] and busy < blame * given:
        raise SkipError(
            f"{texts[0]}, though no other program kept one busy: a limit of this process's CPU "
            "time does that, see cores"
        )
    disturbed = any(shares.get(name, 0.0) > limit for name, limit in LIMITS.items())
    return judged(
        "disturbance",
        {"windows": windows, **shares},
        {"programs": disturbed and busy is not None, "others": disturbed},
        load="; ".join(texts) or "the threads waited for no core",
    )


def cores(context: Context) -> Finding:
    """Compare the threads with affinity and quota, and products of all threads with those of one,
    by the fastest product and the best window."""
    threads, quota = context.threads, cpu_quota()
    used = min(threads, MOST)
    allowed = len(os.sched_getaffinity(0))
    alone, together, shares = [], [], []
    for _ in range(_CORE_WINDOWS):
        torch.set_num_threads(1)
        alone.append(min(product_seconds(_ALONE_S, used)))
        torch.set_num_threads(used)
        before = read_counters()
        together.append(min(product_seconds(_TOGETHER_S, used)))
        after = read_counters()
        cpu_s, seconds = (after[name] - before[name] for name in ("own_cpu_s", "seconds"))
        shares.append(cpu_s / seconds / used)
    speedup = min(alone) / min(together)
    figures = {"threads": threads, "allowed_cores": allowed, "quota_cores": quota,
               "speedup": speedup, "shares": shares}  # fmt: skip
    limits = BY_NAME["cores"].limits
    failures = {
        "affinity": threads > allowed,
        "quota": threads > (quota or threads),
        "held-back": max(shares) < limits["share"],
        "shared": used > 1 and speedup < 1 + limits["gain"] * (used - 1),
    }
    return judged("cores", figures, failures, used=used, ran=max(shares))


def frequency(context: Context) -> Finding:
    """The speed of the fastest product of each window, which clocks lower by heat or a limit."""
    product_seconds(_SPEED_S, context.threads)
    fastest = []
    with MachineWatch() as machine:
        for _ in range(_SPEED_WINDOWS):
            fastest.append(min(product_seconds(_SPEED_S, context.threads)))
            machine.look()
    share = min(fastest) / median(fastest[-_LAST:])
    figures = {"fastest_ms": [1000 * s for s in fastest], "share": share, **machine.report["cpu"]}
    failures = {"throttled": machine.doubts.get("throttled"), "slow": not share >= SLOWED}
    return judged("frequency", figures, failures, load_s=_SPEED_WINDOWS * _SPEED_S)
