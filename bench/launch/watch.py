"""One worker's process: started, waited for, and ended with its whole process group."""

import json
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import IO, Any, Final

from bench.launch.signals import Signals
from bench.results.protocol import LAUNCHED_AT, PARENT_PID, PROGRESS_FD

_GUARD: Final = 'read -r group && { read -r _ || kill -s KILL -- "-$group"; }'
"""A shell that ends a process group when the process which holds its stdin dies, however that dies.

The kernel ends the worker itself (`bench.worker.process`), but not the processes that the worker
started.
"""

GRACE_S: Final = 5.0  # seconds between asking a worker to end and killing it
_TICK_S: Final = 0.2  # longest time after which a timeout or a stop by the user is noticed
_CLOSED_S: Final = 0.01
"""The same for the end of a worker that has closed its pipe, which it does when it ends."""
_CHUNK: Final = 2**16


class Watch(AbstractContextManager["Watch"]):
    """A worker's process, from its launch to the end of its whole process group. OSError if it
    can't be started."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.reason: str | None = None  # of a worker that was ended: `timeout` or `interrupted`
        self.message = ""  # a sentence on that reason
        self.code = 0
        self.peak_rss_mib: float | None = None
        self._phase = "start"
        self._rest = b""
        self._ended = False
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._pipe, progress = os.pipe()
        self._launched = time.monotonic()
        protocol = {PARENT_PID: os.getpid(), PROGRESS_FD: progress, LAUNCHED_AT: self._launched}
        try:
            self._process = subprocess.Popen(
                list(argv), env={**env, **{name: str(value) for name, value in protocol.items()}},
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=(progress,),
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._close()
            raise
        finally:
            os.close(progress)
        self._inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(f"{self._process.pid}\n".encode())
                self._guard.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self._signal_group(signal.SIGKILL)
        if not self._ended:
            self._reap(0)
        self._close()

    def _close(self) -> None:
        self._guard.kill()
        self._guard.communicate()
        os.close(self._pipe)

    def wait(
        self,
        signals: Signals,
        on_progress: Callable[[dict[str, Any]], None],
        timeout_s: float | None,
        grace_s: float,
    ) -> None:
        """Wait for the worker's end; end it on a timeout or a stop by the user."""
        deadline = None if timeout_s is None else self._launched + timeout_s
        while not self._reap(os.WNOHANG):
            is_late = deadline is not None and time.monotonic() >= deadline
            if self.reason is None and (signals.stops or is_late):
                self._ask_to_end(signals, timeout_s)
                deadline = time.monotonic() + grace_s
            elif self.reason is not None and (signals.stops > 1 or is_late):
                self._signal_group(signal.SIGKILL)
            self._read(on_progress, _TICK_S)
        self._read(on_progress, 0)

    def _ask_to_end(self, signals: Signals, timeout_s: float | None) -> None:
        if signals.stops:
            self.reason, self.message = "interrupted", f"stopped by the user (phase: {self._phase})"
        else:
            self.reason = "timeout"
            self.message = f"took longer than {timeout_s:g} s (phase: {self._phase})"
        self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reap(self, options: int) -> bool:
        """Reap the worker if it has ended, and keep its peak memory; false while it runs."""
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid == 0:
            return False
        self._ended = True
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if usage.ru_maxrss > self._inherited:
            self.peak_rss_mib = usage.ru_maxrss / 2**10
        return True

    def _read(self, on_progress: Callable[[dict[str, Any]], None], wait_s: float) -> None:
        """Wait for messages of the worker's progress, and pass them on. Lines that are no JSON
        object come from libraries and are ignored."""
        if not select.select([self._pipe], [], [], wait_s)[0]:
            return
        data = os.read(self._pipe, _CHUNK)
        if not data:
            time.sleep(min(wait_s, _CLOSED_S))
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                if isinstance(message.get("phase"), str):
                    self._phase = message["phase"]
                on_progress(message)
