"""One worker's process, watched without polling and ended with its whole process group.

A single select waits for everything: progress and output in pipes, signals (the worker's end,
Ctrl-C) in another pipe, and the deadline.
"""

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from bench.launch.output import Output
from bench.launch.signals import Signals
from bench.results.protocol import LAUNCHED_AT, PARENT_PID, PROGRESS_FD

_GUARD: Final = ("/bin/sh", "-c", 'read -r _ || kill -s KILL -- "-$1"', "guard")
"""A shell that ends a process group when the process which holds its stdin dies, however that dies.

The kernel ends the worker itself (`bench.worker.lifeline`), but not the processes that the worker
started.
"""

GRACE_S: Final = 5.0
"""Seconds between asking a worker to end and killing it."""

_CHUNK: Final = 2**16
_CHUNKS_AT_THE_END: Final = 16
_LONGEST_LINE: Final = 2**16
_LONGEST_WAIT_S: Final = 24 * 3600


class Watch:
    """A worker's process, from its launch to the end of its whole process group.

    Attributes:
        failure: why it could not be started; None if it was.
        reason: the status of a worker that was ended: `timeout` or `interrupted`; else None.
        message: a sentence on that reason.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdout: Output,
        stderr: Output,
        signals: Signals,
        on_progress: Callable[[dict[str, Any]], None],
    ) -> None:
        self.failure: str | None = None
        self.reason: str | None = None
        self.message = ""
        self.code = 0
        self.peak_rss_mib: float | None = None
        self.cpu_s: float | None = None
        self._signals = signals
        self._on_progress = on_progress
        self._phase = "start"
        self._rest = b""
        self._ended = False
        self._takers: dict[int, Callable[[bytes], None]] = {}
        writes = [self._pipe(taker) for taker in (self._take_progress, stdout.write, stderr.write)]
        progress, printed, errors = writes
        self._clock = time.monotonic()
        try:
            self._process = subprocess.Popen(
                list(argv),
                env={
                    **env,
                    PARENT_PID: str(os.getpid()),
                    PROGRESS_FD: str(progress),
                    LAUNCHED_AT: repr(self._clock),
                },
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=errors,
                pass_fds=(progress,),
                start_new_session=True,
            )
        except OSError as error:
            self.failure = error.strerror or str(error)
            self._close_pipes()
        finally:
            for write in writes:
                os.close(write)
        self._inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._guard: subprocess.Popen[bytes] | None = None
        if self.failure is None:
            with suppress(OSError):  # without a shell, the worker's own lifeline has to do
                self._guard = subprocess.Popen(
                    [*_GUARD, str(self._process.pid)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )

    def _pipe(self, taker: Callable[[bytes], None]) -> int:
        """The write end of a new pipe, whose content is passed to `taker`."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        self._takers[read] = taker
        return write

    def _close_pipes(self) -> None:
        for read in self._takers:
            os.close(read)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._signal_group(signal.SIGKILL)
        if not self._ended:
            self._reap(0)
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        self._close_pipes()
        for process in (self._process, self._guard):
            if process is not None and process.stdin is not None:
                process.stdin.close()

    def wait(self, timeout_s: float | None, grace_s: float) -> None:
        """Wait for the worker's end; end it on a timeout or a stop by the user."""
        deadline = None if timeout_s is None else self._clock + timeout_s
        killed = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.fd, selectors.EVENT_READ)
            for read in self._takers:
                selector.register(read, selectors.EVENT_READ)
            while not self._reap(os.WNOHANG):
                late = deadline is not None and time.monotonic() >= deadline
                if self.reason is None and (self._signals.stops or late):
                    self._ask_to_end(timeout_s)
                    deadline, late = time.monotonic() + grace_s, False
                if self.reason is not None and not killed and (late or self._signals.stops > 1):
                    self._signal_group(signal.SIGKILL)
                    deadline, killed = None, True
                for key, _ in selector.select(_left(deadline)):
                    if key.fd == self._signals.fd:
                        self._signals.drain()
                    elif not self._read(key.fd):
                        selector.unregister(key.fd)
        for read in self._takers:
            for _ in range(_CHUNKS_AT_THE_END):
                self._read(read)

    def _ask_to_end(self, timeout_s: float | None) -> None:
        if self._signals.stops:
            self.reason, self.message = "interrupted", f"stopped by the user (phase: {self._phase})"
        else:
            self.reason = "timeout"
            self.message = f"took longer than {timeout_s:g} s (phase: {self._phase})"
        self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reap(self, options: int) -> bool:
        """Reap the worker if it has ended, and keep its resource usage; false while it runs."""
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid == 0:
            return False
        self._ended = True
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s = usage.ru_utime + usage.ru_stime
        if usage.ru_maxrss > self._inherited:
            self.peak_rss_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return True

    def _read(self, pipe: int) -> bool:
        """Pass on the data in a pipe; false at its end."""
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return True
        self._takers[pipe](data)
        return bool(data)

    def _take_progress(self, data: bytes) -> None:
        """Pass on messages of the worker's progress.

        Lines that are no JSON object come from libraries and are ignored, as are overlong ones.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                if isinstance(message.get("phase"), str):
                    self._phase = message["phase"]
                self._on_progress(message)
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b"\0"  # so that the rest of the line is not valid JSON


def _left(deadline: float | None) -> float | None:
    """Seconds until a deadline, limited to what a select accepts."""
    return None if deadline is None else min(max(deadline - time.monotonic(), 0), _LONGEST_WAIT_S)
