"""Run the cell in a folder: `python -m bench.worker CELL_FOLDER`.

The grid starts this, one process a cell; by hand it repeats a cell. It reads cell.json and leaves
result.json, steps.csv, epochs.csv, machine.json and predictions.safetensors in the folder, and of
a short training panel.csv. An error that is neither a lack of memory nor a training without a
result ends it with a traceback, and without result.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bench.command import run_command
from bench.files import write_atomically
from bench.protocol import RESULT
from bench.schema import SCHEMA, Row
from bench.worker import lifeline
from bench.worker.imports import import_all


def write_result(
    folder: Path, status: str, message: str, columns: Row, flags: Sequence[str] = ()
) -> None:
    """Leave result.json, whole or not at all."""
    result = {
        "schema": SCHEMA,
        "status": status,
        "flags": list(flags),
        "message": message,
        "columns": columns,
    }
    write_atomically(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")


def main(folder: Path) -> int:
    """Run the cell in `folder`; the exit code."""
    lifeline.attach()
    import_all()  # after the lifeline: importing torch takes seconds in which the parent may die

    from bench.job import Job
    from bench.worker.kinds import run_of
    from bench.worker.measure import is_out_of_memory
    from bench.worker.progress import Progress
    from bench.worker.run import InvalidError

    run = run_of(Job.read(folder), folder, Progress.from_environment())
    try:
        columns = run.run()
    except InvalidError as error:
        status, message = "invalid", str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status, message = "oom", f"out of memory: {_first_line(error)}"
    else:
        write_result(folder, "ok", "", columns, run.record.flags)
        return 0
    write_result(folder, status, message, run.record.columns | run.memory())
    return 1


@click.command("python -m bench.worker", help="Run the cell in a folder, as the grid does.")
@click.argument("folder", metavar="CELL_FOLDER", type=click.Path(path_type=Path))
def command(folder: Path) -> int:
    return main(folder)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or "no memory left"


if __name__ == "__main__":
    run_command(command)
