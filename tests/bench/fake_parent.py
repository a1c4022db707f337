"""`python fake_parent.py FOLDER TIMEOUT_S BEHAVIOUR…`: runs a fake worker through the runner and
prints the outcome as JSON."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from bench.launch.runner import run_worker
from bench.launch.signals import Signals

WORKER = Path(__file__).with_name("fake_worker.py")

if __name__ == "__main__":
    folder, timeout_s, *behaviours = sys.argv[1:]
    with Signals() as signals:
        outcome = run_worker(
            Path(folder), [sys.executable, str(WORKER), folder, *behaviours], env=os.environ,
            timeout_s=float(timeout_s), on_progress=lambda _: None, signals=signals,
        )  # fmt: skip
    print(json.dumps(asdict(outcome)))
