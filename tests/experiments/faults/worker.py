"""What the fake and the real worker share: noting their launch, and being struck."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.plan.job import FILE
from tests.experiments.faults.actions import ACTIONS
from tests.experiments.faults.notes import Launch, Notes, has_ok_row
from tests.experiments.faults.strike import Hook, Strike

PLACE: Final = "FAULTS_PLACE"
"""Environment: the folder that has the case's runs.csv."""
NOTES: Final = "FAULTS_NOTES"
"""Environment: the folder of the case's notes."""
RUN: Final = "FAULTS_RUN"
"""Environment: number of the run of the grid; in the first, 0, the fault strikes."""

STRIKE: Final = "strike.json"
_STAYS: Final = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
)


def begin(folder: Path) -> Hook:
    """Note the launch of the worker for the cell in a folder; its hook."""
    notes, runs_csv = Notes(Path(os.environ[NOTES])), Path(os.environ[PLACE], "runs.csv")
    job = json.loads((folder / FILE).read_text())
    cell_id, run = job["cell_id"], int(os.environ[RUN])
    launch = Launch(
        run=run,
        cell_id=cell_id,
        attempt=job["attempt"],
        pid=os.getpid(),
        was_done=has_ok_row(runs_csv, cell_id),
    )
    number = notes.launch(launch)
    strike = Strike.read(notes.folder / STRIKE) if run == 0 else None
    if strike is not None and (strike.side != "worker" or strike.cell != number):
        strike = None
    if strike is not None and strike.child:
        subprocess.Popen([sys.executable, "-S", "-c", _STAYS, str(folder)])

    def act(of: Strike, phase: str) -> None:
        if notes.strike(phase, cell_id, runs_csv):
            ACTIONS[of.action](of, folder)

    return Hook(strike, act)
