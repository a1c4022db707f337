"""The share of the time that training's threads would wait for a core, or that other guests get."""

from statistics import median
from typing import Final

from bench.doctor.check import Context, Finding, SkipError, judged
from bench.doctor.load import product_seconds
from bench.worker.probes.machine import STOLEN, WAITED, MachineWatch

_WINDOWS: Final = 7
_WINDOW_S: Final = 0.6
LIMITS: Final = {"waited": 2 * WAITED, "stolen": 2 * STOLEN}
"""Twice the shares above which a row is flagged as disturbed: the median of the windows is above
them only if something runs all the time, such as a program that keeps one of ten cores busy."""
_BLAME: Final = 0.5
"""Share of the cores that waiting threads gave away which others must have kept busy: with less,
nobody else took them."""
_MEANINGS: Final = {
    "waited": "the threads waited {:.2f} s for a core for each second they ran",
    "stolen": "{:.0%} of the cores' time went to other guests of this host",
}


def check(context: Context) -> Finding:
    """Keep all threads busy and compare medians over windows with the limits."""
    product_seconds(_WINDOW_S, context.threads)
    windows = []
    for _ in range(_WINDOWS):
        with MachineWatch() as machine:
            product_seconds(_WINDOW_S, context.threads)
        windows.append(machine.report["cpu"])
    shares = {
        name: median(values)
        for name in (*LIMITS, "foreign_cores")
        if (values := [each[name] for each in windows if each[name] is not None])
    }
    if not shares.keys() & LIMITS:
        raise SkipError("this system does not count the time that threads wait for a core")
    waited, busy = shares.get("waited", 0.0), shares.get("foreign_cores")
    given = context.threads * waited / (1 + waited)  # cores
    if busy is not None and waited > LIMITS["waited"] and busy < _BLAME * given:
        raise SkipError(
            f"the threads waited {waited:.2f} s for a core for each second they ran, though no "
            "other program kept one busy: a limit of this process's CPU time does that, see cores"
        )
    figures = {"windows": windows, **shares}
    text = "; ".join(_MEANINGS[name].format(shares[name]) for name in LIMITS if shares.get(name))
    text = text or "the threads waited for no core"
    is_quiet = all(shares.get(name, 0.0) <= limit for name, limit in LIMITS.items())
    if busy is not None and not is_quiet:
        text += f"; other programs keep {busy:.1f} cores busy"
    return judged(is_quiet, text, "end other programs (see top), or use another host", figures)
