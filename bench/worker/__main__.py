"""Run the cell in a folder: `python -m bench.worker CELL_FOLDER`.

The grid starts this, one process a cell; by hand it repeats a cell. It reads cell.json and leaves
result.json, steps.csv, epochs.csv and predictions.safetensors in the folder. An error that is
neither a lack of memory nor a loss that is not finite ends it with a traceback, without a result.
"""

import json
import sys
from pathlib import Path

from bench.files import write_atomically
from bench.protocol import RESULT
from bench.schema import SCHEMA, Row
from bench.worker import lifeline


def write_result(folder: Path, status: str, message: str, columns: Row) -> None:
    """Leave result.json, whole or not at all."""
    result = {
        "schema": SCHEMA,
        "status": status,
        "flags": [],
        "message": message,
        "columns": columns,
    }
    write_atomically(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")


def main(folder: Path) -> int:
    """Run the cell in `folder`; the exit code."""
    lifeline.attach()

    import torch  # after the lifeline: importing it takes seconds in which the parent may die

    from bench.job import Job
    from bench.worker.progress import Progress
    from bench.worker.run import CellRun, NotFiniteError

    run = CellRun(Job.read(folder), folder, Progress.from_environment())
    try:
        columns = run.run()
    except NotFiniteError as error:
        status, message = "invalid", f"{error}, at step {len(run.record.losses)}"
    except (MemoryError, torch.OutOfMemoryError) as error:
        status, message = "oom", f"out of memory: {_first_line(error)}"
    except RuntimeError as error:
        # torch has no exception type of its own for host memory that can't be had
        if "DefaultCPUAllocator" not in str(error):
            raise
        status, message = "oom", f"out of memory: {_first_line(error)}"
    else:
        write_result(folder, "ok", "", columns)
        return 0
    write_result(folder, status, message, run.record.columns | run.memory())
    return 1


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or "no memory left"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.worker CELL_FOLDER")
    sys.exit(main(Path(sys.argv[1])))
