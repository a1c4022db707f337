"""What strikes a worker, done by the worker to itself and to its parent. No torch of its own."""

import ctypes
import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.results.protocol import PARENT_PID, PROGRESS_FD, RESULT

_CHUNK: Final = 2**16
_BALLAST: Final = 2**24
_ROOM: Final = 2**26
_TOO_MUCH: Final = 2**36


class OutOfMemoryError(RuntimeError):
    """What torch raises, for a worker without torch."""


def kill_worker(_amount: int, _folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent(_amount: int, _folder: Path) -> None:
    os.kill(int(os.environ[PARENT_PID]), signal.SIGKILL)


def stop_parent(amount: int, _folder: Path) -> None:
    """Ctrl-C or SIGTERM, once or twice: `amount` from 0 to 3."""
    number = signal.SIGTERM if amount % 2 else signal.SIGINT
    for _ in range(1 + amount // 2):
        with suppress(ProcessLookupError):
            os.kill(int(os.environ[PARENT_PID]), number)
        time.sleep(0.01)


def hang(amount: int, _folder: Path) -> None:
    """Stopped, when only SIGKILL helps, or with Python's lock held."""
    if amount:
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        ctypes.PyDLL(None).sleep(600)


def fill_memory(amount: int, _folder: Path) -> None:
    """Take memory until the kernel's OOM killer comes, or until there are `amount` bytes."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = []
    while len(held) * _BALLAST < amount:
        held.append(bytearray(b"x") * _BALLAST)


def lack_memory(_amount: int, _folder: Path) -> None:
    """Ask for more than a limit of the process's own leaves, as torch and as Python do."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch = sys.modules.get("torch")
    if torch is None:
        bytearray(_TOO_MUCH)
    else:
        torch.empty(_TOO_MUCH, dtype=torch.uint8)


def lack_cuda_memory(_amount: int, _folder: Path) -> None:
    torch = sys.modules.get("torch")
    kind = OutOfMemoryError if torch is None else torch.OutOfMemoryError
    raise kind(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of "
        "79.11 GiB of which 9.19 MiB is free."
    )


def print_garbage(amount: int, _folder: Path) -> None:
    """On stdout, stderr and the pipe for progress."""
    noise = random.Random(amount)  # noqa: S311
    lines = b'{"status": "oom"}\n[1]\n{"phase": 3}\n{"step": [], "steps": -1}\n{"phase": "\\u001b['
    for _ in range(20):
        data = noise.randbytes(noise.randrange(5000)) + lines + b"[" * 3000
        os.write(1, data)
        os.write(2, data)
        with suppress(OSError):  # as the worker's own progress: what isn't taken is lost
            os.write(int(os.environ[PROGRESS_FD]), data)


def flood(amount: int, _folder: Path) -> None:
    """Print `amount` bytes, on stdout or on stderr."""
    line = b"tick tock 100%|##########| 1/1 [00:00<00:00]\r"
    data = line * (_CHUNK // len(line))
    stream = 1 + amount % 2
    for _ in range(amount // len(data) + 1):
        os.write(stream, data)


def delete_folder(_amount: int, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def scramble_result(amount: int, folder: Path) -> None:
    noise = random.Random(amount)  # noqa: S311
    (folder / RESULT).write_bytes(noise.randbytes(noise.randrange(2000)))


def cut_result(amount: int, folder: Path) -> None:
    """Leave only a beginning of the result."""
    path = folder / RESULT
    size = path.stat().st_size
    os.truncate(path, amount % (size - 2))  # its last two bytes are a brace and a line end


def fill_disk(_amount: int, _folder: Path) -> None:
    """From now on nothing of this process gets onto the disk."""

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = fail


ACTIONS: Final[dict[str, Callable[[int, Path], None]]] = {
    action.__name__: action
    for action in (
        kill_worker, kill_parent, stop_parent, hang, fill_memory, lack_memory, lack_cuda_memory,
        print_garbage, flood, delete_folder, scramble_result, cut_result, fill_disk,
    )
}  # fmt: skip
