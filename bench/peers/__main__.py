"""The same work by transformers + PEFT and by us: time, memory and losses, in processes that
alternate.

Example: python -m bench.peers --quick
"""

import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import gridfile
from bench.cell import Cell
from bench.checks import check_amp, check_model, check_reports
from bench.command import run_command
from bench.conditions import Found, find_conditions
from bench.errors import DiskFullError, InputError
from bench.models import Model, check_length, check_ranks, find_model
from bench.peers.names import OURS, TRAINER, check_libraries, parse_peers, versions
from bench.peers.rows import (
    STEP_COLUMNS,
    WHOLE_COLUMNS,
    Attempt,
    curves,
    problems,
    step_rows,
    whole_rows,
)
from bench.peers.session import Comparison, StartError
from bench.peers.show import as_json as to_json
from bench.peers.show import check_csv, print_tables, write_csv
from bench.plan import Resolved, expand, parse_selection, select
from bench.schema import GRID
from bench.signals import Signals, StoppedError
from minbert.assets import fetch_visibly
from minbert.tasks import TaskData, find_task, load_task

_SETTINGS: Final = Path(__file__).with_name("settings.toml")
_EPILOG: Final = """\b
Examples:
  python -m bench.peers
  python -m bench.peers --quick --select "mode=lora amp=off" --reports reports/
  python -m bench.peers --vs trainer --select "mode=lora layers=all-lin-only amp=on"
  python -m bench.peers --task sst --data path/to/data --csv peers.csv
"""
_INTERRUPTED: Final = 130
Positive = click.IntRange(min=1)


@dataclass(frozen=True)
class Effort:
    """How much is done where no flag says: rounds, steps, seconds of timed steps, peers."""

    rounds: int
    loss_steps: int
    whole_steps: int
    budget_s: float
    peers: str


_USUAL: Final = Effort(4, 50, 200, 10.0, "default,grouped,compiled")
_QUICK: Final = Effort(2, 10, 20, 0.0, "default,grouped")


@click.command("python -m bench.peers", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@click.option("--grid", "grid_file", metavar="FILE.toml", help="Settings to compare, as a grid's.")
@click.option("--model", help="minilm, a checkpoint's folder or name; with --init random a size.")
@click.option("--init", type=click.Choice(["pretrained", "random"]), help="Its weights.")
@click.option("--task", help="What is learned: movies, amazon, …; sst, quora, sts with --data.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the task's files.")
@click.option("--max-train", type=Positive, help="Train on N examples only.")
@click.option("--max-dev", type=Positive, help="Evaluate on N examples only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:i.")
@click.option(
    "--select",
    "selection",
    default="",
    metavar='"AXIS=V[,V] …"',
    help='Only settings such as "mode=lora amp=off".',
)
@click.option(
    "--peers",
    metavar="NAME[,NAME]",
    help=f"Of default, grouped and compiled.  [default: {_USUAL.peers}]",
)
@click.option(
    "--vs",
    type=click.Choice(["steps", "trainer"]),
    default="steps",
    show_default=True,
    help="Compare training steps, or whole cells with a script around transformers' Trainer.",
)
@click.option(
    "--steps",
    type=Positive,
    help=f"Steps whose losses are compared; with --vs trainer those of the cell.  [default: "
    f"{_USUAL.loss_steps}, {_USUAL.whole_steps}]",
)
@click.option(
    "--rounds", type=Positive, help=f"Processes of each side.  [default: {_USUAL.rounds}]"
)
@click.option(
    "--quick",
    is_flag=True,
    help=f"{_QUICK.rounds} rounds, {_QUICK.loss_steps} steps ({_QUICK.whole_steps} of a cell), "
    "nothing compiled.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a process that takes longer.",
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the rows there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--reports", type=click.Path(path_type=Path), help="Write peers.md and peers.html there."
)
def command(
    grid_file: str | None,
    data: Path | None,
    device: str,
    selection: str,
    peers: str | None,
    vs: str,
    steps: int | None,
    rounds: int | None,
    quick: bool,
    timeout: float | None,
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
    **overrides: Any,
) -> int:
    check_libraries()
    effort, whole = _QUICK if quick else _USUAL, vs == "trainer"
    if whole and peers is not None:
        raise InputError("--peers: --vs trainer has one peer, the Trainer; leave --peers out")
    sides = (OURS, TRAINER) if whole else (OURS, *parse_peers(peers or effort.peers))
    found = find_conditions(device)
    settings = {name: value for name, value in overrides.items() if value is not None}
    settings["max_steps"] = (steps or effort.whole_steps) if whole else None
    model, examples, cells = _find(grid_file, settings, data, selection, found)
    if csv_file is not None:
        check_csv(csv_file)
    if reports is not None:
        check_reports(reports)
    comparison = Comparison(
        cells=cells,
        sides=sides,
        rounds=rounds or effort.rounds,
        loss_steps=0 if whole else steps or effort.loss_steps,
        budget_s=effort.budget_s,
        whole=whole,
        model=model,
        conditions=found.conditions,
        device_name=found.device_name,
        data=data,
        timeout_s=timeout,
    )
    return compare(comparison, examples, csv_file=csv_file, as_json=as_json, reports=reports)


def compare(
    comparison: Comparison,
    examples: TaskData,
    *,
    csv_file: Path | None = None,
    as_json: bool = False,
    reports: Path | None = None,
) -> int:
    """Run a comparison, print it and write what is asked for; the exit code."""
    try:
        with (
            Signals() as signals,
            tempfile.TemporaryDirectory(prefix="bench-peers-") as name,
            _progress(comparison.processes) as on_process,
        ):
            new_pooler, attempts = comparison.run(Path(name), signals, on_process)
    except StoppedError:
        return _INTERRUPTED
    except (StartError, DiskFullError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return _tell(comparison, examples, new_pooler, attempts, csv_file, as_json, reports)


def _find(
    grid_file: str | None,
    settings: dict[str, Any],
    data: Path | None,
    selection: str,
    found: Found,
) -> tuple[Model, TaskData, list[Cell]]:
    """Model, examples and cells that the flags stand for, checked.

    Raises:
        InputError: for whatever can't be compared.
    """
    grid = gridfile.load(grid_file or str(_SETTINGS))
    wanted = parse_selection(selection)
    grid = gridfile.with_settings(grid, {"seeds": 1, **settings})
    task = find_task(grid.settings.task)
    if not task.files and data is None:
        fetch_visibly("vader")
    caps = {"max_train": grid.settings.max_train, "max_dev": grid.settings.max_dev}
    examples = load_task(grid.settings.task, data, **caps)
    if (most := grid.settings.max_steps) is not None:
        epochs = math.ceil(most * grid.settings.batch_size / len(examples.train))
        grid = gridfile.with_settings(grid, {"epochs": epochs})
    model = find_model(grid.settings.model, grid.settings.init, grid.settings.pooling)
    resolved = Resolved(
        model=model.name,
        model_digest=model.digest,
        pooling=model.pooling,
        data_digest=examples.digest[:16],
        amp_on=found.amp_on,
        learning_rate_source=GRID,
    )
    cells = select(_in_order(grid, resolved), wanted)
    if not cells:
        raise InputError(f"--select: none of the settings that are compared has {selection}")
    check_amp(cells, grid, found.conditions)
    check_ranks(cells, model.config)
    check_length(grid.settings.max_length, model, pairs=examples.train.text_b is not None)
    check_model(model, grid.settings.init)
    return model, examples, cells


def _in_order(grid: gridfile.Grid, resolved: Resolved) -> list[Cell]:
    """The cells of a grid, each once, in the order of its file: one table after the other."""

    def place(cell: Cell, axes: gridfile.Axes) -> tuple[int, int, int, bool]:
        layers = axes.layers.index(cell.layers) if cell.layers else 0  # type: ignore[arg-type]
        return axes.mode.index(cell.mode), layers, cell.rank or 0, cell.amp != "off"  # type: ignore[arg-type]

    found: dict[str, Cell] = {}
    for axes in grid.cells:
        cells = expand(grid.model_copy(update={"cells": [axes]}), resolved)
        found |= {cell.name: cell for cell in sorted(cells, key=lambda cell: place(cell, axes))}
    return list(found.values())


def _tell(
    comparison: Comparison,
    examples: TaskData,
    new_pooler: bool,
    attempts: list[Attempt],
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
) -> int:
    from bench.peers import tables  # pandas, which no process should have waited for

    config, outputs = comparison.model.config, examples.task.num_outputs
    whole = comparison.whole
    rows = whole_rows(attempts) if whole else step_rows(attempts, config, outputs, new_pooler)
    wrong = problems(rows)
    said = tables.said(
        comparison.cells[0], comparison.sides, comparison.conditions, versions(), comparison.rounds
    )
    said += [] if whole else [tables.tolerances(rows)]
    shown = tables.whole_tables(rows) if whole else tables.step_tables(rows)
    findings = tables.findings(rows)
    losses = curves(attempts)
    if csv_file is not None:
        write_csv(csv_file, WHOLE_COLUMNS if whole else STEP_COLUMNS, rows)
    if as_json:
        click.echo(to_json(rows, {"compared": said, "problems": wrong, "losses": losses}))
    else:
        print_tables(shown, [*said, *findings])
    if reports is not None:
        from bench.peers.page import Facts, drawings, write_pages

        line = shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]])
        title = f"{comparison.model.name} on {examples.task.name}: ours and transformers + PEFT"
        facts = Facts(title, said, findings, wrong, shown, line)
        path = write_pages(reports, facts, drawings(rows, losses, whole))
        sys.stderr.write(f"report: {path}\n")
    for problem in wrong:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if wrong else 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """Gives what is told of each process as it begins: a bar on a terminal, else a line each."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False,
        disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)

        def show(done: int, text: str) -> None:
            if not console.is_terminal:
                sys.stderr.write(f"[{done + 1}/{total}] {text}\n")
            bar.update(task, completed=done, description=text, refresh=True)

        yield show


if __name__ == "__main__":
    run_command(command)
