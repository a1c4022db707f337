"""How the process of a worker begins: tied to its parent, then with the imports of its cell.

The kernel ends the process when its parent has died, for whatever reason (PR_SET_PDEATHSIG), even
while a library holds Python's lock. The processes that this one started are ended by the guard of
`bench.launch.watch`. The imports, torch above all, take most of the time until the first step.
"""

import ctypes
import gc
import os
import signal

from bench.plan.job import Job
from bench.results.protocol import PARENT_PID


def tie_to_parent() -> None:
    """Tie this process to its parent, if a runner started it and not a person."""
    parent = os.environ.get(PARENT_PID)
    if parent is None:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before the kernel began to watch it
        os.kill(os.getpid(), signal.SIGKILL)


def import_all(job: Job | None = None) -> None:
    """Import all that cells need, and with a job what its engine does too, without garbage
    collection: it would scan hundreds of thousands of permanent objects again and again, for a
    tenth of the time and more."""
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
        from bench.engines.engine import engine_of

        if job is not None:
            engine_of(job.cell).import_libraries(job)
    finally:
        gc.enable()
    gc.freeze()
