"""Counters of host memory: what a block of known size adds, and the reset of the peak."""

import mmap
from typing import Final

from bench.doctor.check import Context, Finding, SkipError, judged
from bench.worker.probes.memory import Phases, forget_peak, peak_so_far, resident_now

BLOCK_MIB: Final = 256
TOLERANCE_MIB: Final = 8.0
"""3% of the block. The kernel counts pages by core and adds them up later, up to 1 MiB for a core
of a large machine; both ends of a block can take a huge page of 2 MiB more; Python takes little."""
_MIB: Final = 2**20


def check(context: Context) -> Finding:  # noqa: ARG001
    """Write to a block in a phase and free it: current and peak memory, resident and anonymous."""
    before = resident_now()
    if before.rss_mib is None or before.anon_mib is None:
        raise SkipError("this system does not report a process's resident memory")
    phases = Phases()
    with phases.phase("block"):
        block = mmap.mmap(-1, BLOCK_MIB * _MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for _ in range(BLOCK_MIB):
            block.write(b"\1" * _MIB)
        during = resident_now()
        block.close()
    peak, after = phases.peak, resident_now()
    forget_peak()
    reset = peak_so_far()
    figures = {
        "rss_rise_mib": (during.rss_mib or 0.0) - before.rss_mib,
        "anon_rise_mib": (during.anon_mib or 0.0) - before.anon_mib,
        "rss_peak_rise_mib": (peak.rss_mib or 0.0) - before.rss_mib,
        "anon_peak_rise_mib": (peak.anon_mib or 0.0) - before.anon_mib,
        "rss_left_mib": (after.rss_mib or 0.0) - before.rss_mib,
        "peak_after_reset_mib": (reset.rss_mib or 0.0) - (after.rss_mib or 0.0),
    }
    expected = [float(BLOCK_MIB)] * 4 + [0.0, 0.0]
    wrong = [
        f"{name.removesuffix('_mib').replace('_', ' ')} {value:,.1f} for {right:,.0f} MiB"
        for (name, value), right in zip(figures.items(), expected, strict=True)
        if abs(value - right) > TOLERANCE_MIB
    ]
    deviation = max(abs(v - e) for v, e in zip(figures.values(), expected, strict=True))
    summary = f"{BLOCK_MIB} MiB are counted within {deviation:.1f} MiB, and the peak is reset"
    remedy = "memory columns of this system are wrong: don't use them, and report this"
    return judged(not wrong, "; ".join(wrong) or summary, remedy, figures)
