"""A closed terminal ends a run in good order."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUN = """
import signal, sys, time
from pathlib import Path
from bench.launch.signals import Signals

is_ignored = sys.argv[1] == "nohup"
signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
with Signals() as signals:
    print("ready", flush=True)
    while not Path(sys.argv[2]).exists() and signals.stops < 2:
        time.sleep(0.01)
    print("it goes on", file=sys.stderr, flush=True)
    Path(sys.argv[3]).write_text(str(signals.stops))
"""


@pytest.mark.parametrize(("how", "stops"), [("plain", "1"), ("nohup", "0"), ("terminal", "1")])
def test_a_hangup_counts_once_and_under_nohup_not_at_all(tmp_path, how, stops):
    ours, theirs = pty.openpty()
    sent = tmp_path / "sent"
    argv = [sys.executable, "-c", RUN, how, str(sent), str(tmp_path / "stops")]
    output = theirs if how == "terminal" else subprocess.PIPE
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=theirs, stdout=output, stderr=output, start_new_session=True
    ) as process:
        os.close(theirs)
        source, line = ours if how == "terminal" else process.stdout.fileno(), b""
        while not line.endswith(b"\n"):  # or its writer fails where the terminal is closed
            line += os.read(source, 16)
        assert line.split() == [b"ready"]
        if how == "terminal":
            os.close(ours)
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.2)  # or both are one
        sent.touch()
        assert process.wait() == 0
    if how != "terminal":
        os.close(ours)
    assert (tmp_path / "stops").read_text() == stops
