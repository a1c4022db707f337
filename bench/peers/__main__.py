"""Compare this project with transformers + PEFT on the same work: time, memory and losses, measured
in alternating processes.

Example: python -m bench.peers --quick
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from bench.common.command import run_command
from bench.common.csvfile import check_csv
from bench.common.errors import InputError
from bench.launch.checks import amp_notes, check_reports
from bench.machine.conditions import find_conditions
from bench.peers.inputs import find
from bench.peers.names import OURS, PAGES, TRAINER, check_libraries, parse_baselines
from bench.peers.outcome import compare
from bench.peers.session import Comparison

_EPILOG: Final = """\b
Examples:
  python -m bench.peers
  python -m bench.peers --quick --select "mode=lora amp=off" --reports reports/
  python -m bench.peers --vs trainer --select "mode=lora layers=all-lin-only amp=on"
  python -m bench.peers --runs peers.jsonl --select "mode=dora" --peers compiled
  python -m bench.peers --task sst --data path/to/data --csv peers.csv
"""
_COMPILE_TIMEOUT_S: Final = 600.0
Positive = click.IntRange(min=1)


@dataclass(frozen=True)
class Effort:
    """Defaults of flags: rounds, steps, seconds of timed steps, baselines."""

    rounds: int
    loss_steps: int
    whole_steps: int
    budget_s: float
    baselines: str


_FULL: Final = Effort(4, 50, 200, 10.0, "default,grouped,compiled")
_QUICK: Final = Effort(2, 10, 20, 0.0, "default,grouped")


@click.command("python -m bench.peers", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@click.option("--grid", "grid_file", metavar="FILE.toml", help="Grid file of settings to compare.")
@click.option("--model", help="minilm, a checkpoint's folder or name; a size with --init random.")
@click.option("--init", type=click.Choice(["pretrained", "random"]), help="Initial weights.")
@click.option("--task", help="Task: movies, amazon, …; sst, quora, sts with --data.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the task's files.")
@click.option("--max-train", type=Positive, help="Train on N examples only.")
@click.option("--max-dev", type=Positive, help="Evaluate on N examples only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:i.")
@click.option(
    "--select",
    "selection",
    default="",
    metavar='"AXIS=V[,V] …"',
    help='Compare only settings such as "mode=lora amp=off".',
)
@click.option(
    "--peers",
    metavar="NAME[,NAME]",
    help=f"Baselines: default, grouped, compiled.  [default: {_FULL.baselines}]",
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
    help=f"Steps whose losses are compared; with --vs trainer the cell's steps.  [default: "
    f"{_FULL.loss_steps}, {_FULL.whole_steps}]",
)
@click.option("--rounds", type=Positive, help=f"Processes of each side.  [default: {_FULL.rounds}]")
@click.option(
    "--quick",
    is_flag=True,
    help=f"{_QUICK.rounds} rounds, {_QUICK.loss_steps} steps ({_QUICK.whole_steps} of a cell), "
    "no compiled baseline.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a process that takes longer.",
)
@click.option(
    "--compile-timeout",
    "compile_timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=_COMPILE_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Leave out a baseline that takes longer to compile.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Keep results in this file, and run only what is missing.",
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write rows to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    help="Folder for peers.md and peers.html.",
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
    compile_timeout: float,
    runs: Path | None,
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
    **overrides: Any,
) -> int:
    check_libraries()
    effort, whole = _QUICK if quick else _FULL, vs == "trainer"
    if whole and peers is not None:
        raise InputError("--peers: --vs trainer has one baseline, the Trainer; leave --peers out")
    baselines = (
        (TRAINER,) if whole else parse_baselines(effort.baselines if peers is None else peers)
    )
    if csv_file is not None:
        check_csv(csv_file, [runs] if runs is not None and runs.exists() else [])
    if reports is not None:
        check_reports(reports, PAGES)
    target = find_conditions(device)
    settings = {name: value for name, value in overrides.items() if value is not None}
    settings["max_steps"] = (steps or effort.whole_steps) if whole else None
    model, examples, cells = find(grid_file, settings, data, selection, target)
    for note in (*target.device.notes, *amp_notes(cells, target.device)):
        sys.stderr.write(f"note: {note}\n")
    comparison = Comparison(
        cells=cells,
        sides=(OURS, *baselines),
        rounds=rounds or effort.rounds,
        loss_steps=0 if whole else steps or effort.loss_steps,
        budget_s=effort.budget_s,
        whole=whole,
        model=model,
        conditions=target.conditions,
        device_name=target.device_name,
        data=data,
        timeout_s=timeout,
        compile_timeout_s=compile_timeout,
    )
    return compare(
        comparison, examples, runs=runs, csv_file=csv_file, as_json=as_json, reports=reports
    )


if __name__ == "__main__":
    run_command(command)
