"""Faults of the code, its environment or the machine, and the check that has to name each."""

import ctypes
import os
import resource
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.experiments.pages import ROOT

_SITE = Path(__file__).parent / "site"
_CPU_GROUPS = [
    Path(parent, "minbert-doctor") for parent in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")
]
_SOME_MIB = 1900  # less than the full grid needs, and enough for every check
_SOME_BYTES = (_SOME_MIB * 2**20,) * 2
_PR_SET_THP_DISABLE = 41


@dataclass(frozen=True)
class Fault:
    text: str
    check: str
    patch: str = ""  # in `tests.experiments.doctor.patches`, if the fault is in the code
    machine: object = nullcontext  # makes the context in which the doctor runs
    limit: object = None  # called in the doctor's process before it begins


@contextmanager
def _busy_core():
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    psutil.Process(program.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def _join_half_quota():
    """Put this process into a group with a quota of half the cores; needs root."""
    quota, period = 50_000 * len(os.sched_getaffinity(0)), 100_000
    for group in _CPU_GROUPS:
        try:
            group.mkdir(exist_ok=True)
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {period}")
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return
    raise PermissionError("no CPU quota can be set: run this as root, outside of a container")


@contextmanager
def _quota_group():
    try:
        yield
    finally:
        for group in filter(Path.exists, _CPU_GROUPS):
            group.rmdir()


def environment(patch="", **variables):
    """This process's environment, with a patch for a command and all that it starts."""
    paths = [str(_SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FAULT": patch, **variables}


NONE = Fault("", "")
FAULTS = {
    "torch-broken": Fault("torch can't be imported", "software", "torch_is_broken"),
    "precision": Fault("workers inherit NVIDIA_TF32_OVERRIDE and ONEDNN_DEFAULT_FPMATH_MODE",
                       "software", "precision_is_inherited"),
    "threads": Fault("workers use half the threads", "software", "half_the_threads"),
    "memory": Fault(f"`ulimit -d` of {_SOME_MIB} MiB (real)", "memory-limit",
                    limit=lambda: resource.setrlimit(resource.RLIMIT_DATA, _SOME_BYTES)),
    "busy-core": Fault("another program keeps a core busy (real)", "disturbance",
                       machine=_busy_core),
    "quota": Fault("a CPU quota of half the cores, and threads for all (real)", "cores",
                   machine=_quota_group, limit=_join_half_quota),
    "clocks": Fault("cores have half their speed after two seconds", "frequency",
                    "cores_slow_down"),
    "clock-fast": Fault("step times are 3% too long", "step-clock", "clock_is_fast"),
    "clock-slow": Fault("step times are 3% too short", "step-clock", "clock_is_slow"),
    "peak": Fault("the peak is not reset", "memory-counters", "peak_is_not_reset"),
    "counter": Fault("a tenth of anonymous memory is not counted", "memory-counters",
                     "memory_is_missed"),
    "growth": Fault("every step keeps 2 MiB", "allocator", "steps_grow"),
    "tunables": Fault("workers get no tunables", "allocator", "no_tunables"),
    "huge-pages": Fault("the system refuses huge pages (real)", "huge-pages",
                        limit=lambda: ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)),
    "bf16": Fault("bf16 products are 1% too large", "products", "bf16_is_wrong"),
    "fp32": Fault("fp32 products are rounded to bf16", "products", "fp32_is_short"),
    "dora": Fault("DoRA's fast path: gradients of magnitudes 5% too large", "numerics",
                  "dora_is_wrong"),
    "dropout": Fault("dropout can't be turned off", "numerics", "dropout_stays_on"),
    "compile": Fault("each step is compiled again", "compiled", "compiles_again"),
    "row": Fault("a cell's row lacks its peak", "grid", "row_lacks_peak"),
    "heads": Fault("engine transformers starts from another head", "engines", "other_heads"),
    "forecast": Fault("peaks are forecast a third too high", "forecast", "forecast_is_off"),
    "oom": Fault("running out of memory ends as a crash", "out-of-memory", "oom_is_a_crash"),
}  # fmt: skip
