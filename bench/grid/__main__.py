"""Plan a grid, run the cells that have no result yet, each in its own process, and render a report.

Examples:
  python -m bench.grid --grid smoke
  python -m bench.grid --grid full --max-train 2000 --seeds 3
  python -m bench.grid --grid full --select "mode=lora,dora rank=1,8 amp=on" --dry-run
  python -m bench.grid --grid full --data train.csv --label topic
  python -m bench.grid --grid paper --task sst --data path/to/data --budget 90
  python -m bench.grid --grid my-grid.toml --model path/to/checkpoint --task sst --data path/to/data
  python -m bench.grid --grid full --model minilm,path/to/roberta
  python -m bench.grid --grid full --device all
  python -m bench.grid --grid full --executor slurm --slurm "partition=gpu gres=gpu:1"
"""

import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from bench.analysis.costs import parse_where
from bench.common.command import described, options_in, reports_for, run_command, runs_for
from bench.common.errors import InputError
from bench.common.progress import note_to_stderr
from bench.examples.own import with_data
from bench.executors.executor import open_executor, with_executor
from bench.forecast.outlook import Outlook
from bench.grid.dryrun import print_plan
from bench.grid.inputs import override, read_inputs
from bench.grid.plans import first_to_run, rounds
from bench.grid.session import Session
from bench.launch.checks import check_model, check_reports, check_space, rate_notes
from bench.launch.signals import Signals
from bench.machine.version import code_version
from bench.plan import gridfile
from bench.plan.budget import Budget
from bench.plan.cell import MINBERT
from bench.plan.learning_rates import Search
from bench.plan.metrics import METRIC_HELP, METRICS
from bench.plan.planning import check_rerun
from bench.plan.selection import parse_selection, select
from bench.plan.shards import Shard
from bench.report.text import sentences
from bench.results.merge import keep_shard
from bench.results.overhead import Account
from bench.results.rowfile import torn_line
from bench.results.store import Store
from bench.results.tracking import Tracking
from minbert.files import is_folder


class _Amount(click.FloatRange):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            unit = str(param.metavar if param else "").lower()
            self.fail(f"{number} is not a number of {unit}; for no limit, leave it out.")
        return number


class _OnOff(click.Choice[str]):
    """`auto`, or whether something is on."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        choice = super().convert(value, param, ctx)
        return {"on": True, "off": False}.get(choice, choice)


def _length(value: str) -> int | str:
    return int(value) if value.isdecimal() and len(value) < 10 else value  # int has a limit


def _models(value: str) -> list[str]:
    return [value] if is_folder(value) else value.split(",")


_TYPES: "Final[dict[str, click.ParamType[Any]]]" = {
    "amount": _Amount(min=0, min_open=True),
    "compile": _OnOff(["auto", "on", "off"]),
    "length": click.types.FuncParamType(_length),
    "metric": click.Choice(list(METRICS)),
    "models": click.types.FuncParamType(_models),
}
_with_flags: Final = options_in(
    __file__,
    "options.toml",
    _TYPES,
    {"data": with_data, "executor": with_executor},
    grids=", ".join(gridfile.names()),
    metric_help=METRIC_HELP,
)


@described(__doc__)
@_with_flags
def command(
    grid_name: str,
    where: Mapping[str, Any],
    data: dict[str, Any],
    selection: str,
    rerun: str | None,
    lr: str,
    shard: str | None,
    limits: str,
    confirm: int | None,
    label_curve: bool,
    timeout: float | None,
    budget_min: float | None,
    runs: Path | None,
    reports: Path | None,
    metric: str | None,
    track: str | None,
    dry_run: bool,
    fresh: bool,
    keep: bool,
    as_json: bool,
    **overrides: Any,
) -> int:
    grid = override(gridfile.load(grid_name), overrides)
    axes = parse_selection(selection)
    rerun = check_rerun(rerun) if rerun is not None else None
    part = None if shard is None else Shard.parse(shard, os.environ)
    reasons = {
        "a race: add --no-race": grid.settings.race, "--lr auto": lr == "auto",
        "--confirm": confirm is not None, "--label-curve": label_curve,
    }  # fmt: skip
    if part is not None and (excluded := [reason for reason, is_so in reasons.items() if is_so]):
        raise InputError(
            f"--shard divides a plan that no result changes, which excludes {excluded[0]}; "
            "--executor slurm and --device all can run it"
        )
    opening = open_executor({**where, "budget_min": budget_min})
    inputs = read_inputs(grid, data, metric, searches=lr == "auto")
    if runs is None:
        runs = runs_for(inputs.data.task.name if inputs.data_folder else None)
        if runs.parent != Path():
            note_to_stderr(f"results go to {runs.parent}/; --runs names another file")
    reports = reports or reports_for(runs)
    store = Store(runs, code_version() if fresh else None)
    executor = opening(store, inputs.paths(), dry_run)
    target, *_ = executor.kinds.values()

    cells = select(inputs.cells(target), axes)
    if not cells:
        own = grid.name not in gridfile.names()
        remedy = "; add a table [[cells]] that does" if own else ""
        raise InputError(f"--select: no cell of grid {grid.name} has {selection}{remedy}")
    inputs.check(cells, executor.devices, searches=lr == "auto")
    if grid.settings.race:
        inputs.check_race(cells, {kind.amp_on for kind in executor.kinds.values()})
    if store.rows is not None and store.torn:  # known once rows are read
        note_to_stderr(torn_line(runs))

    session = Session(
        inputs=inputs,
        executor=executor,
        store=store,
        reports=reports,
        keep=keep,
        timeout_s=timeout,
        arguments=tuple(sys.argv[1:]),
        metric=metric,
        predicts=True,
        rerun=rerun,
        fresh=fresh,
        confirm=confirm,
        curve=inputs.curve if label_curve else {},
        budget=Budget(math.inf if budget_min is None else 60 * budget_min),
        account=Account(executor.workers),
        tracking=None if track is None else Tracking(track, runs, reports),
    )
    if limits:
        if not grid.settings.race:
            raise InputError("--where limits a race: add --race, or give it to bench.recommend")
        with Signals() as signals:
            cells = session.within(cells, parse_where(limits), signals)
    division = None
    if part is not None:
        with Signals() as signals:
            division = session.divide(cells, part.count, signals)
        note_to_stderr(*sentences("shard", division=division, shard=part))
        cells = [*division.parts[part.index]]
    search = Search(cells, inputs.searched.digest[:16], session.scored) if lr == "auto" else None
    replay = session.raced if grid.settings.race else None
    planned, number = first_to_run(rounds(cells, session.plan, search, replay))
    if number is None and not any(item.action == "run" for item in planned):
        planned = [*planned, *session.further(planned)]
    some_run = any(item.action == "run" for item in planned)
    if some_run:
        inputs.check_engines(cells)
    notes = [
        *inputs.every_note(cells, target.device, metric, some_run=some_run),
        *(rate_notes(cells) if search is None else ()),
    ]
    if dry_run:
        note_to_stderr(*notes)
        print_plan(session, planned, cells, number, as_json)
        return 0

    if some_run:
        for name in dict.fromkeys(cell.model for cell in cells if cell.engine == MINBERT):
            check_model(inputs.models[name], inputs.grid.settings.init)
    store.check_writable()
    check_reports(reports)
    check_space(runs, planned, inputs.models, inputs.train_examples(), keep)
    note_to_stderr(*notes)
    with Signals() as signals:
        first = partial(session.attempt, planned[0], Outlook(None, []))
        note_to_stderr(*executor.check(first, signals))
    if part is not None and division is not None:
        keep_shard(runs, division.plan, part)
    return session.run(rounds(cells, session.plan, search, replay), as_json)


if __name__ == "__main__":
    run_command(command)
