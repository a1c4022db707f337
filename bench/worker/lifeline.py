"""Ends this process when its parent process has died, for whatever reason.

On Linux the kernel does so (PR_SET_PDEATHSIG), even while a library holds Python's lock. On other
systems, and for the worker's own children, a thread waits for the end of stdin, a pipe whose other
end only the parent holds.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Final

from bench.results.protocol import PARENT_PID

_PR_SET_PDEATHSIG: Final = 1


def attach() -> None:
    """Tie this process to its parent, if a runner started it and not a person.

    Afterwards stdin is empty, so that a library that asks a question does not hang.
    """
    parent = os.environ.get(PARENT_PID)
    if parent is None:
        return
    stdin = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_wait, args=(stdin,), name="lifeline", daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # the parent died before the kernel began to watch it
            _end()


def _wait(stdin: int) -> None:
    while os.read(stdin, 4096):
        pass
    _end()


def _end() -> None:
    """Kill this process, and its children if it leads a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
