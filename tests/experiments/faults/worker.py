"""Workers that note their launch and are struck: one without torch, which speaks the real one's
protocol, and, with the argument `real`, the real one, followed and struck from outside."""

import ctypes
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench.common.files import write_atomically
from bench.plan.job import FILE
from bench.results.protocol import PARENT_PID, PROGRESS_FD, RESULT
from bench.worker.process import Progress, tie_to_parent
from tests.experiments.faults.kinds import Strike
from tests.experiments.faults.notes import Launch, Notes, read, records

PLACE = "FAULTS_PLACE"  # environment: the folder that has the case's runs.csv
NOTES = "FAULTS_NOTES"  # environment: the folder of the case's notes
RUN = "FAULTS_RUN"  # environment: number of the run of the grid; in the first, 0, the fault strikes

STRIKE = "strike.json"
_STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
_GARBAGE = b'{"status": "oom"}\n[1]\n{"phase": 3}\n{"step": [], "steps": -1}\n{"phase": "\\u001b['


class OutOfMemoryError(RuntimeError):
    """What torch raises, for a worker without torch."""


def go_wrong(action, amount, folder):
    """What a strike does in this process, the worker for the cell in a folder."""
    parent, noise = int(os.environ[PARENT_PID]), random.Random(amount)  # noqa: S311
    result = folder / RESULT
    match action:
        case "kill_worker":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill_parent":
            os.kill(parent, signal.SIGKILL)
        case "stop_parent":  # by Ctrl-C or SIGTERM, once or twice
            for _ in range(1 + amount // 2):
                with suppress(ProcessLookupError):
                    os.kill(parent, signal.SIGTERM if amount % 2 else signal.SIGINT)
                time.sleep(0.01)
        case "hang" if amount:
            os.kill(os.getpid(), signal.SIGSTOP)  # only SIGKILL helps
        case "hang":
            ctypes.PyDLL(None).sleep(600)  # with Python's lock held
        case "fill_memory":  # until the kernel's OOM killer comes, or there are so many bytes
            Path("/proc/self/oom_score_adj").write_text("1000")
            taken = []
            while len(taken) * 2**24 < amount:
                taken.append(bytearray(b"x") * 2**24)
        case "lack_memory":  # more than a limit of the process's own leaves
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**26
            resource.setrlimit(
                resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1])
            )
            if torch := sys.modules.get("torch"):
                torch.empty(2**36, dtype=torch.uint8)
            else:
                bytearray(2**36)
        case "lack_cuda_memory":
            torch = sys.modules.get("torch")
            kind = OutOfMemoryError if torch is None else torch.OutOfMemoryError
            raise kind(
                "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of "
                "79.11 GiB of which 9.19 MiB is free."
            )
        case "print_garbage":  # on stdout, stderr and the pipe for progress
            for _ in range(20):
                data = noise.randbytes(noise.randrange(5000)) + _GARBAGE + b"[" * 3000
                os.write(1, data)
                os.write(2, data)
                with suppress(OSError):  # as the worker's own progress: what isn't taken is lost
                    os.write(int(os.environ[PROGRESS_FD]), data)
        case "flood":  # on stdout or on stderr
            data = b"tick tock 100%|##########| 1/1 [00:00<00:00]\r" * 1456
            for _ in range(amount // len(data) + 1):
                os.write(1 + amount % 2, data)
        case "delete_folder":
            shutil.rmtree(folder, ignore_errors=True)
        case "scramble_result":
            result.write_bytes(noise.randbytes(noise.randrange(2000)))
        case "cut_result":  # it ends in a brace and a line end
            os.truncate(result, amount % (result.stat().st_size - 2))
        case "fill_disk":
            fill_disk()


def fill_disk():
    """From now on nothing of this process gets onto the disk."""

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = fail


def hide(path, *, raises):
    """From now on pathlib finds nothing at a path, as it answers from Python 3.14 on where the
    system doesn't; or os.stat raises the system's error, too."""
    stat = os.stat
    for name in ("exists", "is_file", "is_dir"):
        function = getattr(Path, name)
        setattr(Path, name, lambda self, *a, _of=function, **k: self != path and _of(self, *a, **k))

    def fail(at, *arguments, **named):
        if str(at) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stat(at, *arguments, **named)

    os.stat = fail if raises else stat


class Hook:
    """Follows the phases of a process, and strikes in one, once, at the latest when it ends."""

    def __init__(self, strike, act):
        self.strike = strike
        self.phase = ""
        self._act = act
        self._is_armed = False
        self._at = 0.0
        self._lock = threading.Lock()

    def enter(self, phase):
        self._fire()
        self.phase = phase
        strike = self.strike
        if strike is None or self._at or strike.phase != phase:
            return
        self._is_armed, self._at = True, time.monotonic() + strike.wait_s
        if strike.wait_s == 0:
            self._fire()
        elif not strike.in_main:
            threading.Timer(strike.wait_s, self._fire).start()

    def tick(self):
        """A moment at which the main thread can be struck."""
        if self._is_armed and self.strike.in_main and time.monotonic() >= self._at:
            self._fire()

    def _fire(self):
        with self._lock:
            is_armed, self._is_armed = self._is_armed, False
        if is_armed:
            self._act(self.strike, self.phase)


def begin(folder):
    """Note the launch of the worker for the cell in a folder; its hook."""
    notes, runs_csv = Notes(Path(os.environ[NOTES])), Path(os.environ[PLACE], "runs.csv")
    job, run = json.loads((folder / FILE).read_text()), int(os.environ[RUN])
    cell_id = job["cell_id"]
    rows = records(read(runs_csv))
    is_done = any(row["cell_id"] == cell_id and row["status"] == "ok" for row in rows)
    number = notes.launch(
        Launch(run=run, cell_id=cell_id, attempt=job["attempt"], pid=os.getpid(), was_done=is_done)
    )
    text = read(notes.folder / STRIKE)
    strike = Strike(**json.loads(text)) if text and run == 0 else None
    strike = strike if strike and strike.cell == number else None
    if strike and strike.child:
        subprocess.Popen([sys.executable, "-S", "-c", _STAYS, str(folder)])

    def act(of, phase):
        if notes.strike(phase, cell_id, runs_csv):
            go_wrong(of.action, of.amount, folder)

    return Hook(strike, act)


def main(folder):
    hook, progress = begin(folder), Progress.from_environment()
    hook.enter("start")
    tie_to_parent()
    try:
        for phase in ("load", "tokenise", "train", "evaluate", "save"):
            hook.enter(phase)
            progress.phase(phase)
            for step in range(10):
                time.sleep(0.002)
                hook.tick()
                progress.step(step, 10, 0.5)
            if phase in ("train", "evaluate"):
                (folder / f"{phase}.bin").write_bytes(b"x" * 3000)
    except (MemoryError, OutOfMemoryError) as error:
        _write(folder, status="oom", message=f"out of memory: {error}")
        return 1
    hook.enter("write")
    columns = {"train_s": random.random(), "tokens_total": 100}  # noqa: S311
    _write(folder, status="ok", message="", flags=[], columns=columns)
    hook.enter("end")
    return 0


def _write(folder, **result):
    write_atomically(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")


def real_main(folder):
    """`bench.worker`'s own main, whose messages of progress tell the phases. An exception is raised
    as an allocator would, from within one of torch's operations."""
    hook = begin(folder)
    in_main = hook.strike is not None and hook.strike.in_main
    hook.enter("start")
    from bench.worker import __main__ as worker

    send, write = Progress.phase, worker.write_result

    def phase(self, name):
        nonlocal in_main
        if in_main:
            from torch.utils._python_dispatch import TorchDispatchMode

            class Ticking(TorchDispatchMode):  # each operation is a moment to be struck at
                def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
                    hook.tick()
                    return operation(*args, **(kwargs or {}))

            Ticking().__enter__()
            in_main = False
        hook.enter(name)
        send(self, name)

    def write_result(*arguments, **named):
        hook.enter("write")
        write(*arguments, **named)
        hook.enter("end")

    Progress.phase = phase
    worker.write_result = write_result
    return worker.main(folder)


if __name__ == "__main__":
    *real, path = sys.argv[1:]
    sys.exit((real_main if real else main)(Path(path)))
