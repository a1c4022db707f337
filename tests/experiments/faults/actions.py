"""What strikes a worker, done by the worker to itself and to its parent; each takes an amount and
the folder of the cell. No torch of its own."""

import ctypes
import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from bench.results.protocol import PARENT_PID, PROGRESS_FD, RESULT


class OutOfMemoryError(RuntimeError):
    """What torch raises, for a worker without torch."""


def kill_worker(_amount, _folder):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent(_amount, _folder):
    os.kill(int(os.environ[PARENT_PID]), signal.SIGKILL)


def stop_parent(amount, _folder):
    """Ctrl-C or SIGTERM, once or twice: `amount` from 0 to 3."""
    for _ in range(1 + amount // 2):
        with suppress(ProcessLookupError):
            os.kill(int(os.environ[PARENT_PID]), signal.SIGTERM if amount % 2 else signal.SIGINT)
        time.sleep(0.01)


def hang(amount, _folder):
    """Stopped, when only SIGKILL helps, or with Python's lock held."""
    if amount:
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        ctypes.PyDLL(None).sleep(600)


def fill_memory(amount, _folder):
    """Take memory until the kernel's OOM killer comes, or until there are `amount` bytes."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    taken = []
    while len(taken) * 2**24 < amount:
        taken.append(bytearray(b"x") * 2**24)


def lack_memory(_amount, _folder):
    """Ask for more than a limit of the process's own leaves, as torch and as Python do."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if torch := sys.modules.get("torch"):
        torch.empty(2**36, dtype=torch.uint8)
    else:
        bytearray(2**36)


def lack_cuda_memory(_amount, _folder):
    torch = sys.modules.get("torch")
    kind = OutOfMemoryError if torch is None else torch.OutOfMemoryError
    raise kind(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of "
        "79.11 GiB of which 9.19 MiB is free."
    )


def print_garbage(amount, _folder):
    """On stdout, stderr and the pipe for progress."""
    noise = random.Random(amount)  # noqa: S311
    lines = b'{"status": "oom"}\n[1]\n{"phase": 3}\n{"step": [], "steps": -1}\n{"phase": "\\u001b['
    for _ in range(20):
        data = noise.randbytes(noise.randrange(5000)) + lines + b"[" * 3000
        os.write(1, data)
        os.write(2, data)
        with suppress(OSError):  # as the worker's own progress: what isn't taken is lost
            os.write(int(os.environ[PROGRESS_FD]), data)


def flood(amount, _folder):
    """Print `amount` bytes, on stdout or on stderr."""
    data = b"tick tock 100%|##########| 1/1 [00:00<00:00]\r" * 1456
    for _ in range(amount // len(data) + 1):
        os.write(1 + amount % 2, data)


def delete_folder(_amount, folder):
    shutil.rmtree(folder, ignore_errors=True)


def scramble_result(amount, folder):
    noise = random.Random(amount)  # noqa: S311
    (folder / RESULT).write_bytes(noise.randbytes(noise.randrange(2000)))


def cut_result(amount, folder):
    """Leave only a beginning of the result."""
    path = folder / RESULT
    os.truncate(path, amount % (path.stat().st_size - 2))  # it ends in a brace and a line end


def fill_disk(_amount, _folder):
    """From now on nothing of this process gets onto the disk."""

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = fail
