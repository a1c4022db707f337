"""A worker that speaks the real one's protocol without torch: `… faults.fake_worker FOLDER`.

It has the real one's phases, in each of which it sleeps, and leaves a result.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Final

from bench.common.files import write_atomically
from bench.results.protocol import RESULT
from bench.worker import lifeline
from bench.worker.progress import Progress
from tests.experiments.faults.actions import OutOfMemoryError
from tests.experiments.faults.strike import Hook
from tests.experiments.faults.worker import begin

PHASES: Final = ("load", "tokenise", "train", "evaluate", "save")
PHASE_S: Final = 0.02
_TICKS: Final = 10


def main(folder: Path) -> int:
    hook = begin(folder)
    hook.enter("start")
    lifeline.attach()
    try:
        work(folder, hook)
    except (MemoryError, OutOfMemoryError) as error:
        leave(folder, {"status": "oom", "message": f"out of memory: {error}"})
        return 1
    hook.enter("write")
    columns = {"train_s": random.random(), "tokens_total": 100}  # noqa: S311
    leave(folder, {"status": "ok", "message": "", "flags": [], "columns": columns})
    hook.enter("end")
    return 0


def work(folder: Path, hook: Hook) -> None:
    """All phases, with files at the end of two."""
    progress = Progress.from_environment()
    for phase in PHASES:
        hook.enter(phase)
        progress.phase(phase)
        for step in range(_TICKS):
            time.sleep(PHASE_S / _TICKS)
            hook.tick()
            progress.step(step, _TICKS, 0.5)
        if phase in ("train", "evaluate"):
            (folder / f"{phase}.bin").write_bytes(b"x" * 3000)


def leave(folder: Path, result: dict[str, object]) -> None:
    write_atomically(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
