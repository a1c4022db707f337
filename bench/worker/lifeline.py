"""Ends this process when its parent process has died, for whatever reason.

The kernel does so (PR_SET_PDEATHSIG), even while a library holds Python's lock. The processes that
this one started are ended by the guard of `bench.launch.watch`.
"""

import ctypes
import os
import signal

from bench.results.protocol import PARENT_PID


def attach() -> None:
    """Tie this process to its parent, if a runner started it and not a person."""
    parent = os.environ.get(PARENT_PID)
    if parent is None:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before the kernel began to watch it
        os.kill(os.getpid(), signal.SIGKILL)
