"""Plan a grid, run the cells that are not done, one process each, and render the report.

Example: python -m bench.grid --grid smoke
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench import gridfile
from bench.cell import Cell
from bench.command import run_command
from bench.conditions import Conditions, find_conditions
from bench.errors import InputError
from bench.files import folder_for_now, try_to_write
from bench.gridfile import Grid
from bench.models import Model, check_length, check_ranks, find_model
from bench.plan import Planned, Resolved, check_rerun, expand, parse_selection, plan, select
from bench.schema import latest
from bench.session import Session
from bench.store import Store, read_rows
from minbert.assets import fetch_visibly
from minbert.check import check_checkpoint
from minbert.config import count_parameters
from minbert.files import is_folder
from minbert.tasks import TaskData, find_task, load_task
from minbert.tokenizer import Tokenizer

SPACE_PER_CELL_MIB: Final = 2
SPACE_AT_LEAST_MIB: Final = 64

_EPILOG: Final = """\b
Examples:
  python -m bench.grid --grid smoke
  python -m bench.grid --grid full --max-train 2000 --seeds 3
  python -m bench.grid --grid full --select "mode=lora,dora rank=1,8 amp=on" --dry-run
  python -m bench.grid --grid my-grid.toml --model path/to/checkpoint --task sst --data path/to/data
"""

Positive = click.IntRange(min=1)


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None, epilog=_EPILOG)
@click.option(
    "--grid",
    "grid_name",
    required=True,
    metavar="NAME|FILE.toml",
    help=f"A grid: {', '.join(gridfile.names())}, or a file like theirs.",
)
@click.option(
    "--model",
    help="minilm, a checkpoint's folder, a name on the Hugging Face hub; with "
    "--init random also bert-tiny to bert-large.",
)
@click.option(
    "--init",
    type=click.Choice(["pretrained", "random"]),
    help="Weights from the checkpoint, or random ones: then only costs are measured.",
)
@click.option(
    "--task",
    help="What is learned: movies, amazon, nyt, tweets, each also as -rating; "
    "sst, quora, sts with --data.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the task's files.")
@click.option("--seeds", type=Positive, help="Seeds 0 to N-1 of every cell.")
@click.option("--epochs", type=Positive, help="Passes over the training examples.")
@click.option("--max-steps", type=Positive, help="Stop a cell's training after N steps.")
@click.option("--max-train", type=Positive, help="Train on N examples only.")
@click.option("--max-dev", type=Positive, help="Evaluate on N examples only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:i.")
@click.option(
    "--select",
    "selection",
    default="",
    metavar='"AXIS=V[,V] …"',
    help='Only cells such as "mode=lora rank=1,8".',
)
@click.option("--dry-run", is_flag=True, help="Print the plan, run and write nothing.")
@click.option("--fresh", is_flag=True, help="Run cells again that are done.")
@click.option("--keep", is_flag=True, help="Leave the trained weights in the cells' folders.")
@click.option("--rerun", metavar="STATUS|FLAG", help="Run cells again that ended so.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a cell that takes longer.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs.csv"),
    show_default=True,
    help="Where results are.",
)
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Where the report goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the outcome as JSON.")
def command(
    grid_name: str,
    selection: str,
    dry_run: bool,
    fresh: bool,
    keep: bool,
    rerun: str | None,
    timeout: float | None,
    runs: Path,
    reports: Path,
    as_json: bool,
    device: str,
    data: Path | None,
    **overrides: Any,
) -> int:
    grid = override(gridfile.load(grid_name), overrides)
    wanted = parse_selection(selection)
    rerun = check_rerun(rerun) if rerun is not None else None
    conditions, amp_on = find_conditions(device)
    examples = _load_task(grid, data)
    grid = _without_idle_caps(grid, examples)
    settings = grid.settings
    model = find_model(settings.model, settings.init, settings.pooling)
    cells = select(expand(grid, _resolve(model, examples, amp_on)), wanted)
    if not cells:
        raise InputError(f"--select: no cell of grid {grid.name} has {selection}")
    _check_amp(cells, grid, conditions)
    check_ranks(cells, model.config)
    check_length(settings.max_length, model, pairs=examples.train.text_b is not None)
    rows = read_rows(runs)
    planned = plan(cells, latest(rows), conditions.conditions_id, rerun=rerun, fresh=fresh)
    if dry_run:
        _print_plan(planned, as_json)
        return 0
    if any(item.action == "run" for item in planned):
        _check_model(model, grid.settings.init)
    store = Store(runs)
    store.check_writable()
    _check_reports(reports)
    _check_space(runs, planned, model, keep)
    for problem in (*examples.task.notes, *examples.problems):
        sys.stderr.write(f"note: {problem}\n")
    session = Session(
        grid=grid,
        conditions=conditions,
        model=model,
        data=examples,
        data_folder=data,
        store=store,
        reports=reports,
        keep=keep,
        timeout_s=timeout,
        arguments=tuple(sys.argv[1:]),
    )
    return session.run(planned, as_json)


def override(grid: Grid, values: dict[str, Any]) -> Grid:
    """The grid with settings replaced by the flags that were given."""
    given = {name: value for name, value in values.items() if value is not None}
    return gridfile.with_settings(grid, given)


def _check_amp(cells: Sequence[Cell], grid: Grid, conditions: Conditions) -> None:
    if conditions.device == "cpu" and any(cell.amp == "fp16" for cell in cells):
        raise InputError(f"grid {grid.name}: amp fp16 needs a GPU; on the CPU take bf16 or on")


def _without_idle_caps(grid: Grid, data: TaskData) -> Grid:
    """Drop caps that are above what there is, so that reports don't tell of them."""
    sizes = {"max_train": len(data.train), "max_dev": len(data.dev)}
    caps = {name: getattr(grid.settings, name) for name in sizes}
    idle = {name: None for name, cap in caps.items() if cap is not None and cap > sizes[name]}
    return grid.model_copy(update={"settings": grid.settings.model_copy(update=idle)})


def _load_task(grid: Grid, data: Path | None) -> TaskData:
    settings = grid.settings
    if not find_task(settings.task).files and data is None:
        fetch_visibly("vader")
    return load_task(settings.task, data, max_train=settings.max_train, max_dev=settings.max_dev)


def _check_model(model: Model, init: str) -> None:
    """Load vocabulary and weights once, before any cell does; the embedded ones are pinned."""
    if init == "random" and not model.embedded:
        Tokenizer.from_folder(model.tokenizer)
    if init == "pretrained" and model.checkpoint is not None and not model.embedded:
        check_checkpoint(model.checkpoint)


def _resolve(model: Model, data: TaskData, amp_on: str) -> Resolved:
    return Resolved(
        model=model.name,
        model_digest=model.digest,
        pooling=model.pooling,
        data_digest=data.digest[:16],
        amp_on=amp_on,
        learning_rate_source="grid",
    )


def _check_reports(reports: Path) -> None:
    """Try whether a report can be written, and leave nothing behind: it comes hours later."""
    figures = reports / "figures"
    for folder in (reports, figures):
        if os.path.lexists(folder) and not is_folder(folder):
            raise InputError(f"--reports: {folder} is a file; name a folder")
    try:
        with folder_for_now(figures):
            try_to_write(figures)
            try_to_write(reports)
    except OSError as error:
        raise InputError(
            f"--reports: {reports} can't be written ({error.strerror}); name another folder"
        ) from error


def _check_space(runs: Path, planned: list[Planned], model: Model, keep: bool) -> None:
    to_run = sum(item.action == "run" for item in planned)
    each = SPACE_PER_CELL_MIB
    if keep:
        each += 4 * count_parameters(model.config, pooler=True, num_outputs=0) // 2**20
    needed = SPACE_AT_LEAST_MIB + to_run * each
    if not to_run:
        return
    folder = next(path for path in runs.resolve().parents if path.exists())
    free = shutil.disk_usage(folder).free // 2**20
    if free < needed:
        raise InputError(
            f"{folder}: {free} MiB are free, and {to_run} cells may need {needed} MiB; "
            "free some space, or name another place with --runs"
        )


def _print_plan(planned: list[Planned], as_json: bool) -> None:
    if as_json:
        items = [
            {
                **item.cell.columns(),
                "name": item.cell.name,
                "action": item.action,
                "reason": item.reason,
                "attempt": item.attempt,
            }
            for item in planned
        ]
        click.echo(json.dumps(items, indent=2))
        return
    table = Table("", "cell", "mode", "rank", "layers", "amp", "seed", "plan", box=None)
    for number, item in enumerate(planned, start=1):
        cell = item.cell
        rank = "" if cell.rank is None else str(cell.rank)
        table.add_row(
            str(number),
            cell.cell_id,
            cell.mode,
            rank,
            cell.layers or "",
            cell.amp,
            str(cell.seed),
            "run" if item.action == "run" else item.reason,
        )
    console = Console()
    console.print(table)
    to_run = sum(item.action == "run" for item in planned)
    console.print(f"{len(planned)} cells: {to_run} to run, {len(planned) - to_run} not")


if __name__ == "__main__":
    run_command(command)
