"""The speed of a fixed piece of work over seconds: clocks that drop under load, or by heat."""

from statistics import median
from typing import Final

from bench.doctor.check import Context, Finding, judged
from bench.doctor.load import product_seconds
from bench.worker.probes.gpu import SLOWED
from bench.worker.probes.machine import MachineWatch

_WINDOWS: Final = 10
_WINDOW_S: Final = 0.5
_LAST: Final = 3


def check(context: Context) -> Finding:
    """Compare the fastest product of each window: other programs don't slow all products of one."""
    product_seconds(_WINDOW_S, context.threads)
    fastest = []
    with MachineWatch() as machine:
        for _ in range(_WINDOWS):
            fastest.append(min(product_seconds(_WINDOW_S, context.threads)))
            machine.look()
    share = min(fastest) / median(fastest[-_LAST:])
    figures = {"fastest_ms": [1000 * s for s in fastest], "share": share, **machine.report["cpu"]}
    summary = f"after {_WINDOWS * _WINDOW_S:.0f} s of load the speed is {share:.0%} of the highest"
    throttled = machine.doubts.get("throttled")
    summary += f"; {throttled}" if throttled else ""
    remedy = "look at cooling, power settings and the governor; on a laptop, plug it in"
    return judged(throttled is None and share >= SLOWED, summary, remedy, figures)
