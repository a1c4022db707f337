"""A worker without torch: `python fake_worker.py FOLDER FUNCTION…`, of functions here, in turn."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bench.worker.process import Progress, tie_to_parent

folder = Path(sys.argv[1])
progress = Progress.from_environment()


def result(text='{"status": "ok", "columns": {"train_s": 1.5}, "flags": ["throttled"]}'):
    (folder / "result.json").write_text(text)


failed_result = partial(
    result, '{"status": "invalid", "message": "the loss is not finite,\\nat step 7"}'
)
result_that_was_kept = partial(result, '{"status": "ok", "save_s": 3.0}')
attach = tie_to_parent
note_pid = (folder / f"pid-{os.getpid()}").touch


def child():
    """A process of the worker's own that would outlive it."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    (folder / f"pid-{process.pid}").touch()


def train():
    progress.phase("train")
    Progress.from_environment().step(3, 10, 0.5)


def garbage():
    pipe = int(os.environ["BENCH_PROGRESS_FD"])
    os.set_blocking(pipe, True)
    noise = b'\xff\xfe\n[1, 2]\n"text"\n' + b"[" * 50_000 + b"\n" + b"{" * 300_000
    for part in (noise, b'{"phase": "hidden"}\n{"phase": "told"}\n{"phase": "cut'):
        while part:
            part = part[os.write(pipe, part) :]
        time.sleep(0.2)  # so that the long line comes in pieces


def flood():
    for stream in (sys.stdout, sys.stderr):
        for _ in range(500):
            stream.write("tick tock 100%|##########|\n" * 1000)


def unfinished():
    (folder / ".result.json.tmp").write_text('{"status": "ok", "colu')
    (folder / ".weights.safetensors.tmp").touch()
    (folder / "compiled").mkdir()
    (folder / "compiled" / ".tmpovngnW").touch()  # as safetensors calls it


def error():
    with contextlib.suppress(ZeroDivisionError):
        print(1 / 0)
    raise FileNotFoundError(2, "No such file\n  or so", "/home/somebody/data/train.tsv")


def end_with_3():
    sys.stderr.write("first\nthe reason\n\n")
    os._exit(3)


kill = partial(os.kill, os.getpid(), signal.SIGKILL)
segfault = partial(os.kill, os.getpid(), signal.SIGSEGV)


def allocate():
    assert b"x" * (200 * 2**20)


ignore_term = partial(signal.signal, signal.SIGTERM, signal.SIG_IGN)
interrupt_parent = partial(os.kill, os.getppid(), signal.SIGINT)


def interrupt_parent_when_asked_to_end():
    signal.signal(signal.SIGTERM, lambda *_: interrupt_parent())


def result_when_asked_to_end():
    def leave(*_):
        result('{"status": "crashed", "message": "I was stopped", "columns": {"train_s": 2.0}}')
        sys.exit(1)

    signal.signal(signal.SIGTERM, leave)


moment = partial(time.sleep, 0.2)


def hang():
    (folder / "hangs").touch()
    time.sleep(60)


def hang_with_the_lock():
    (folder / "hangs").touch()
    ctypes.PyDLL(None).sleep(60)


for name in sys.argv[2:]:
    globals()[name]()
