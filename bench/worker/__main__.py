"""Run the cell in a folder: `python -m bench.worker CELL_FOLDER`.

The grid starts one such process for each cell; started by hand, it repeats a cell. It reads
cell.json and writes the files of `bench.results.protocol`. If memory runs out, the device fails or
the training is invalid, result.json says so; any other error ends the process with a traceback and
no result.json. Memory of a GPU runs out because of others where they hold much of it, or where
there is not enough for a context.
"""

import json
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.common.files import write_atomically
from bench.plan.cell import Columns
from bench.plan.job import Job
from bench.plan.rows import BUSY, SCHEMA
from bench.results.protocol import DEVICE_FAILED, RESULT, SAVE_S
from bench.worker.process import import_all, tie_to_parent


def write_result(
    folder: Path, status: str, message: str, columns: Columns, flags: Sequence[str] = (),
    **others: bool | float,
) -> None:  # fmt: skip
    """Write result.json atomically; `others` are `DEVICE_FAILED` and `SAVE_S`, by their values."""
    given = {"status": status, "flags": [*flags], "message": message, "columns": columns}
    result = {"schema": SCHEMA, **given, DEVICE_FAILED: False, SAVE_S: 0.0, **others}
    write_atomically(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")


def main(folder: Path) -> int:
    tie_to_parent()
    job = Job.read(folder)
    import_all(job)  # after: importing torch takes seconds in which the parent may die

    from bench.worker.device import is_of_device
    from bench.worker.process import Progress
    from bench.worker.run import CellRun, InvalidError
    from minbert.errors import HOST_MEMORY, is_out_of_memory

    run: CellRun | None = None
    device_failed = False
    try:
        run = CellRun(job, folder, Progress.from_environment())
        columns = run.run()
    except InvalidError as error:
        status, message = "invalid", str(error)
    except Exception as error:
        line = str(error).partition("\n")[0]
        is_first = run is None and job.device != "cpu"  # at the first use of a GPU
        if is_out_of_memory(error):
            status, message = "oom", f"out of memory: {line or 'no memory left'}"
            on_host = isinstance(error, MemoryError) or any(sign in line for sign in HOST_MEMORY)
            gpu = None if run is None else run.gpu
            if not on_host and (is_first or (gpu is not None and gpu.is_held_by_others)):
                status, message = BUSY, f"other processes hold the GPU's memory: {line}"
        elif is_of_device(error) or (is_first and not isinstance(error, InputError)):
            traceback.print_exc()
            status, message = "crashed", f"the device failed: {line or type(error).__name__}"
            device_failed = True
        else:
            raise
    else:
        save_s = run.phases.seconds.get("save", 0.0)
        write_result(folder, "ok", "", columns, run.flags, save_s=save_s)
        return 0
    columns = {}
    if run is not None:
        columns = run.columns | ({} if device_failed else run.memory())
    write_result(folder, status, message, columns, device_failed=device_failed)
    return 1


@click.command("python -m bench.worker", help="Run the cell in a folder, as the grid does.")
@click.argument("folder", metavar="CELL_FOLDER", type=click.Path(path_type=Path))
def command(folder: Path) -> int:
    return main(folder)


if __name__ == "__main__":
    run_command(command)
