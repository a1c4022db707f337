"""Ends a worker's whole group when the process that watches it dies, however that dies.

The kernel ends the worker itself (`bench.worker.lifeline`), but not what the worker has started. A
shell of about 1 MiB does: it sleeps in a read of a pipe whose other end only the watching process
holds.
"""

import subprocess
from contextlib import suppress
from typing import Final

_SHELL: Final = "/bin/sh"
_SCRIPT: Final = 'read -r _ || kill -s KILL -- "-$1"'


class Guard:
    """Guards the process group `group` until it is released.

    Where there is no shell, the worker's own lifeline has to do.
    """

    def __init__(self, group: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError):
            self._process = subprocess.Popen(
                [_SHELL, "-c", _SCRIPT, "guard", str(group)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def release(self) -> None:
        """End the guard; the group is left alone."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
