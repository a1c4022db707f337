"""Runs a worker and reports how it ended. Results come in a file, never on stdout. A control group
of its own, by cgroup v2 or v1, can limit its memory."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench.common.errors import writing
from bench.common.files import no_link, read_file, remove_unfinished, text_or_empty
from bench.common.messages import last_error, one_line
from bench.launch.signals import Signals
from bench.launch.watch import GRACE_S, Watch
from bench.results import protocol
from bench.results.protocol import RESULT, STDERR, STDOUT

HEAD: Final = 2**18  # bytes that are kept of the beginning of a worker's output
TAIL: Final = 2**18  # bytes that are kept of its end
_STDERR_TAIL: Final = 2**16
_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNTS: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = ("memory.max", "memory.limit_in_bytes")  # by version 2 and 1
_NO_SWAP: Final = ("memory.swap.max", "memory.swappiness")
_JOIN: Final = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_REMOVE: Final = """read -r _; n=0
for folder; do while [ -d "$folder" ] && ! rmdir "$folder" && [ $n != 100 ]
do n=$((n+1)); sleep 0.1; done; done"""
"""A shell that removes groups when the process that holds its stdin ends, however that ends."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """How a worker ended, and its result, if there is a valid one. `wall_s` is the time from launch
    to end, without the time of saving weights. `peak_rss_mib` is counted by the kernel, also for a
    killed worker. It starts at the size of the process that launched the worker, and is None if it
    never exceeded that."""

    status: str
    message: str
    signal: int | None = None
    peak_rss_mib: float | None = None
    wall_s: float | None
    started_at: str
    finished_at: str
    result: dict[str, Any] | None = None


def run_worker(
    folder: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float | None,
    on_progress: Callable[[dict[str, Any]], None],
    signals: Signals,
    grace_s: float = GRACE_S,
) -> WorkerEnd:
    """Run a worker to its end; nothing of its process group is left running. DiskFullError if its
    output can't be written.

    From the folder of its result and output an earlier result is removed, and so are weights that
    it kept, and links. The protocol's variables are added to its whole environment. The signals are
    entered by the caller, for all cells of a run.
    """
    started, clock = datetime.now(UTC), time.monotonic()

    def outcome(
        status: str, message: str, result: dict[str, Any] | None = None, **usage: Any
    ) -> WorkerEnd:
        wall_s = time.monotonic() - clock  # a wall clock that jumps changes no duration
        saved_s = 0.0 if result is None else float(result[protocol.SAVE_S])
        return WorkerEnd(
            status=status, message=one_line(message), wall_s=max(0.0, wall_s - saved_s),
            started_at=utc(started), finished_at=utc(started + timedelta(seconds=wall_s)),
            result=result, **usage,
        )  # fmt: skip

    if signals.stops:
        return outcome("interrupted", "stopped by the user before it began")
    oom_before = oom_kills()
    with ExitStack() as files:
        with writing(folder):
            no_link(folder).mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name in (RESULT, protocol.WEIGHTS) or path.is_symlink():
                    path.unlink()
            remove_unfinished(folder)
            stdout = files.enter_context((folder / STDOUT).open("wb"))
            stderr = files.enter_context((folder / STDERR).open("wb"))
        try:
            watch = Watch(argv, env, stdout, stderr)
        except OSError as error:
            return outcome("crashed", f"could not be started: {error.strerror or error}")
        with watch:
            watch.wait(signals, on_progress, timeout_s, grace_s)
    remove_unfinished(folder)
    for name in (STDOUT, STDERR):
        _shorten(folder / name)
    result, problem = _read_result(folder / RESULT)
    if result is not None and (watch.reason is None or result["status"] == "ok"):
        status, message = result["status"], result["message"]
    elif watch.reason is not None:
        status, message = watch.reason, watch.message
    else:
        status, message = _failure(watch, folder / STDERR, problem, oom_before)
    killed_by = -watch.code if watch.code < 0 else None
    return outcome(status, message, result, signal=killed_by, peak_rss_mib=watch.peak_rss_mib)


def utc(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _read_result(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A worker's result, or the reason why there is none."""
    try:
        return protocol.parse_result(read_file(path, protocol.LONGEST_RESULT).decode()), ""
    except FileNotFoundError:
        return None, "ended without a result"
    except (OSError, ValueError) as error:
        return None, f"left a {RESULT} that can't be used: {error}"


def _failure(watch: Watch, stderr: Path, problem: str, oom_before: int | None) -> tuple[str, str]:
    """Status and message of a worker that ended by itself without a result."""
    killed = watch.code == -signal.SIGKILL
    if killed and oom_before is not None and (oom_kills() or 0) > oom_before:
        peak = watch.peak_rss_mib
        reached = f" (peak {peak:,.0f} MiB)" if peak is not None else ""
        return "oom", f"the host ran out of memory and the kernel killed it{reached}"
    if watch.code < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-watch.code, "real-time")
        return "crashed", f"killed by signal {-watch.code} ({name})"
    if watch.code > 0:
        line = last_error(text_or_empty(stderr)[-_STDERR_TAIL:])
        return "crashed", line or f"ended with exit code {watch.code}"
    return "crashed", problem


def _shorten(path: Path) -> None:
    """Keep head and tail of a worker's output, with a note of what was left out between them."""
    with suppress(OSError), path.open("r+b") as file:
        left_out = file.seek(0, os.SEEK_END) - HEAD - TAIL
        if left_out > 0:
            file.seek(-TAIL, os.SEEK_END)
            tail = file.read()
            file.seek(HEAD)
            file.write(f"\n[... {left_out:,} bytes left out ...]\n".encode() + tail)
            file.truncate()


def oom_kills(cgroups: Path = _CGROUPS, mounts: Path = _MOUNTS) -> int | None:
    """The group's count of OOM kills so far, by cgroup v1 or v2; None where there is no count.
    Workers are in their parent's group, so the count rises when the kernel kills one; of several
    that run at once it does not say which."""
    counts = (oom_kills_in(folder) for folder in group_folders(cgroups, mounts))
    return next((count for count in counts if count is not None), None)


def oom_kills_in(group: Path) -> int | None:
    """The count in the folder of a group."""
    for name in ("memory.oom_control", "memory.events"):
        words = text_or_empty(group / name).split()
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return None


def group_folders(cgroups: Path = _CGROUPS, mounts: Path = _MOUNTS) -> Iterator[Path]:
    """Folders that may be that of this process's group, the most specific first. In a container,
    the group's path may be that of the host, while its files are at the top of the mount."""
    for line in text_or_empty(cgroups).splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if "memory" in controllers.split(","):
            root = mounts / "memory"
        elif line.startswith("0::"):
            root = mounts
        else:
            continue
        yield root / group.lstrip("/")
        yield root


@dataclass(frozen=True)
class Limited:
    folder: Path

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command that runs another one in the group."""
        return ["/bin/sh", "-c", _JOIN, str(self.folder), *argv]

    def kills(self) -> int:
        """How many processes the kernel has killed because of the limit."""
        return oom_kills_in(self.folder) or 0


@contextmanager
def limited(mib: float) -> Iterator[Limited | None]:
    """A group with a limit, which is removed at the end, even of a process that is killed; None
    where none can be made or joined. Nothing may run in it any more at the end."""
    folders = [parent / f"minbert-fit-{os.getpid()}" for parent in group_folders()]
    if not folders:
        yield None
        return
    remover = subprocess.Popen(
        ["/bin/sh", "-c", _REMOVE, "sh", *map(str, folders)], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        made = (_made(folder, mib) for folder in folders)
        yield next((group for group in made if group is not None), None)
    finally:
        remover.communicate()


def _made(folder: Path, mib: float) -> Limited | None:
    with suppress(OSError):  # left by a process of the same number
        folder.rmdir()
    try:
        folder.mkdir()
    except OSError:
        return None
    with suppress(OSError):
        limits = [folder / name for name in _LIMITS if (folder / name).is_file()]
        for path in limits:
            path.write_text(str(int(mib * 2**20)))
        for path in filter(Path.is_file, (folder / name for name in _NO_SWAP)):
            path.write_text("0")
        group = Limited(folder)
        joined = group.argv(["true"])
        if limits and subprocess.run(joined, capture_output=True, check=False).returncode == 0:
            return group
    with suppress(OSError):
        folder.rmdir()
    return None
