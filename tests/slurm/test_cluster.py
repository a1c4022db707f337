"""The cluster itself ends with the process that started it."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from tests.components import need
from tests.slurm.cluster import missing


def test_nothing_outlives_a_killed_test_process() -> None:
    """The kernel ends the daemons; `stop` would have ended the jobs, too."""
    need((absent := missing()) is None, f"no Slurm cluster: {absent}", component="slurm")
    code = (
        "import os, signal; from tests.slurm.cluster import temporary_cluster\n"
        "with temporary_cluster() as cluster:\n"
        "    print(cluster.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    folder = result.stdout.strip()
    assert folder
    deadline = time.monotonic() + 10
    while (living := _living(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living == []


def _living(folder: str) -> list[str]:
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and folder in " ".join(process.environ().values()):
                names.append(process.name())
    return names
