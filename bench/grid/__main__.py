"""Plan a grid, run the cells that have no result yet, each in its own process, and render a report.

Example: python -m bench.grid --grid smoke
"""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click

from bench.analysis.power import power_note
from bench.common.command import run_command
from bench.common.errors import InputError
from bench.common.progress import note_to_stderr
from bench.examples.options import merged
from bench.examples.own import Source, find_source
from bench.examples.tokenizers import tokenizer_of
from bench.examples.tokens import cut_notes, find_length
from bench.executors.executor import Executor
from bench.executors.local import LocalExecutor
from bench.executors.slurm.cluster import find_cluster
from bench.executors.slurm.options import parse_request
from bench.forecast.client import turn_on
from bench.forecast.outlook import Forecasts, Outlook, forecast_plan, outlook_on
from bench.grid.dryrun import print_plan
from bench.grid.kinds import Kinds
from bench.grid.options import LOCAL, SLURM, with_flags
from bench.grid.session import Session
from bench.launch.checks import (
    amp_notes,
    check_amp,
    check_cells,
    check_class_settings,
    check_engine,
    check_folds,
    check_held_out,
    check_loss,
    check_model,
    check_reports,
    check_search,
    check_space,
    compile_notes,
    early_stopping_notes,
    idle_notes,
    label_notes,
    unfreezing_notes,
    without_idle_caps,
)
from bench.launch.signals import Signals
from bench.machine.conditions import Found, code_version, find_lanes
from bench.plan import gridfile
from bench.plan.adapter_configs import read_adapter_configs
from bench.plan.architectures import attention_of
from bench.plan.budget import Budget
from bench.plan.cell import CANDIDATE, GRID, MINBERT, TRANSFORMERS, Cell
from bench.plan.gridfile import AUTO, Grid, Settings
from bench.plan.learning_rates import Search, lacks_rates, why_no_rates, without_rates
from bench.plan.metrics import check_metric, metric_of, problem_of
from bench.plan.models import Model, check_models, engine_version, find_models
from bench.plan.planning import (
    SKIP,
    Planned,
    Resolved,
    check_rerun,
    expand,
    why_not_minbert,
)
from bench.plan.selection import parse_selection, select
from bench.references.client import find_references
from bench.results.overhead import Account
from bench.results.rowfile import torn_line
from bench.results.store import Store
from minbert.assets.embedded import fetch
from minbert.data.tasks import Data, Folds, find_task, for_search, load_data

_EPILOG: Final = """\b
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


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None, epilog=_EPILOG)
@with_flags
def command(
    grid_name: str,
    selection: str,
    dry_run: bool,
    fresh: bool,
    keep: bool,
    rerun: str | None,
    lr: str,
    confirm: int | None,
    timeout: float | None,
    budget_min: float | None,
    runs: Path,
    reports: Path,
    metric: str | None,
    as_json: bool,
    device: str,
    jobs: int,
    executor_name: str,
    slurm_options: str | None,
    max_running: int | None,
    check_nodes: bool,
    data: dict[str, Any],
    **overrides: Any,
) -> int:
    budget = Budget(math.inf if budget_min is None else 60 * budget_min)
    grid = override(gridfile.load(grid_name), overrides)
    axes = parse_selection(selection)
    rerun = check_rerun(rerun) if rerun is not None else None
    on_cluster = executor_name == SLURM
    if on_cluster:
        _refuse({"--jobs": jobs > 1, "--budget": budget_min is not None}, "this machine", LOCAL)
        if device == "all" or "," in device:
            raise InputError(
                f"--device {device}: each array task uses the one device that Slurm gives it; take "
                "cpu or cuda, or leave --device out, and ask for one GPU with --slurm gres=gpu:1"
            )
        request = parse_request(slurm_options or "", max_running)
        lanes: tuple[Found, ...] = ()
    else:
        given = {"--slurm": slurm_options, "--max-running": max_running}
        _refuse({**given, "--check-nodes": check_nodes}, "a cluster", SLURM)
        lanes = find_lanes(device, jobs)
    in_folds = grid.settings.folds is not None
    source = find_source(grid.settings.task, merged(grid.data, data), folds=in_folds)
    grid = override(grid, {"task": source.task})
    examples, folds = _load_data(grid.settings, source)
    if metric is not None:
        check_metric(metric, problem_of(examples.task.metric))
    sizes = examples.sizes.values() if folds is None else [folds.most]
    grid = without_idle_caps(grid, sizes)
    settings, folder = grid.settings, source.folder
    models = find_models(settings.models, settings.init, settings.pooling)
    adapter_configs = read_adapter_configs(grid)
    engine, why = _engine(grid, models.values())
    engines = {engine if v.engine == AUTO else v.engine for v in grid.variants}
    needs_transformers = TRANSFORMERS in engines
    version = engine_version(why) if needs_transformers else ""
    loads_all = not any(model.why_not_minbert for model in models.values())
    tokenizer = MINBERT if MINBERT in engines and loads_all else TRANSFORMERS
    store = Store(runs, code_version() if fresh else None)
    cluster = None
    if on_cluster:
        needed = [*filter(None, (folder, *(m.checkpoint for m in models.values())))]
        cluster = find_cluster(store, request, device, needed, dry_run=dry_run)
    executor: Executor = cluster or LocalExecutor(runs, lanes)
    target, *_ = executor.kinds.values()
    conditions = target.conditions
    lengths = _lengths(grid, models, tokenizer, examples if folds is None else folds.whole)
    every_resolved = [
        Resolved(
            regression=examples.regression,
            parts=tuple(examples.sizes) if examples.task.parts else (),
            model=model.name,
            model_digest=model.digest,
            pooling=model.pooling,
            data_digest=examples.digest[:16],
            amp_on=target.amp_on,
            learning_rate_source=GRID,
            auto_length=None if model.name not in lengths else lengths[model.name][0],
            no_compiling=target.no_compiling,
            engine=engine,
            engine_version=version,
            attention=attention_of(model.config) if needs_transformers else "",
            adapters=adapter_configs.names,
        )
        for model in models.values()
    ]
    cells = select(expand(grid, *every_resolved), axes)
    if not cells:
        raise InputError(f"--select: no cell of grid {grid.name} has {selection}")
    _check_minbert(cells, models, grid)
    for lane in lanes or [target]:
        check_amp(cells, grid, lane.device)
    check_cells(cells)
    check_models(cells, models, pairs=examples.pairs_in_one)
    check_held_out(settings.share_held_out, examples)
    check_loss(grid.variants, cells, examples)
    check_class_settings(grid.variants, examples)
    of_lengths = {(cell.model, cell.max_length): cell for cell in reversed(cells)}
    check_folds(settings, lr == "auto")
    searched = for_search(examples) if lr == "auto" else None
    if searched is not None:
        check_search(grid, sum(size.train for size in examples.sizes.values()), searched)
        check_held_out(settings.share_held_out, searched)
    if store.rows is not None and store.torn:  # known once rows are read
        note_to_stderr(torn_line(runs))

    kinds = Kinds(grid, lambda: executor.kinds.values())

    def plan_now(to_plan: Sequence[Cell]) -> list[Planned]:
        return kinds.plan(to_plan, store.rows, repeats=settings.repeats, rerun=rerun, fresh=fresh)

    def plan_seeds(own: Sequence[Cell]) -> list[Planned]:
        every = [replace(cell, seed=seed) for seed in range(confirm or 0) for cell in own]
        return kinds.plan([*dict.fromkeys(every)], store.rows, fresh=fresh)

    def forecast(planned: Sequence[Planned], signals: Signals) -> Forecasts | None:
        return forecast_plan(
            planned,
            store.rows,
            models,
            conditions,
            folder,
            nullcontext if on_cluster else turn_on(target.device_name, signals),
            "" if on_cluster else target.gpu,
            adapter_configs.texts,
        )

    search = None
    if searched is not None:
        digest = searched.digest[:16]
        search = Search(cells, digest, lambda cell: kinds.scored(store, cell))
    session = Session(
        grid=grid,
        executor=executor,
        models=models,
        data=examples,
        folds=folds,
        data_folder=folder,
        source=source.files,
        store=store,
        reports=reports,
        keep=keep,
        timeout_s=timeout,
        arguments=tuple(sys.argv[1:]),
        metric=metric,
        forecaster=forecast,
        references=None if on_cluster else find_references,
        budget=budget,
        account=Account(len(lanes)),
        adapter_configs=adapter_configs.texts,
        plan_seeds=plan_seeds if confirm else None,
    )
    planned, number = _next_round(cells, plan_now, search)
    if number is None and not any(item.action == "run" for item in planned):
        planned = [*planned, *session.to_confirm(planned)]
    some_run = any(item.action == "run" for item in planned)
    if some_run:
        for model in models.values():
            own = [cell for cell in cells if cell.model == model.name]
            check_engine(own, grid.variants, model, folder, adapter_configs.texts)
    has_weights = any(model.checkpoint for model in models.values())
    notes = chain(
        _engine_notes(why, len(models)),
        (*source.notes, *examples.notes, *examples.problems),
        label_notes(examples),
        idle_notes(grid.variants, examples),
        unfreezing_notes(cells, min(m.config.num_hidden_layers for m in models.values())),
        compile_notes(cells),
        early_stopping_notes(settings),
        (note for _, note in lengths.values()),
        (*target.device.notes, *amp_notes(cells, target.device)),
        _power(cells, examples, folds, metric) if some_run and has_weights else (),
        # the last, since they tokenise examples: the others are printed before
        *(
            cut_notes(
                examples if folds is None else folds.fold(cell.fold),
                cell,
                models[cell.model].tokenizer,
                folder,
                whose=f"{cell.model}: " if len(models) > 1 else "",
            )
            for _, cell in sorted(of_lengths.items())
            if some_run
        ),
    )
    if dry_run:
        _print_notes(notes)
        with Signals() as signals:
            outlook = outlook_on(planned, forecast, signals)
        script = cluster.script(session.runs_of(outlook)) if cluster is not None else ""
        print_plan(
            planned,
            outlook.forecasts,
            as_json,
            number,
            cells,
            budget.seconds,
            len(lanes) or 1,
            script,
        )
        return 0
    if some_run:
        for name in dict.fromkeys(cell.model for cell in cells if cell.engine == MINBERT):
            check_model(models[name], settings.init)
    store.check_writable()
    check_reports(reports)
    trained = sum(size.train for size in examples.sizes.values())
    check_space(runs, planned, models, trained, keep)
    _print_notes(notes)
    if check_nodes and cluster is not None:
        run = session.cell_run(planned[0], Outlook(None, []))
        with Signals() as signals:
            _print_notes(cluster.check_nodes(run, note_to_stderr, signals))
    return session.run(rounds(cells, plan_now, search), as_json)


def _refuse(flags: Mapping[str, object], where: str, executor: str) -> None:
    """Refuse flags of the other executor.

    Args:
        flags: their values.
        where: what they are for.
        executor: theirs.
    """
    for flag, value in flags.items():
        if value:
            raise InputError(f"{flag} is for {where}: leave it out, or take --executor {executor}")


def _engine(grid: Grid, models: Collection[Model]) -> tuple[str, str]:
    """What engine `auto` stands for in all cells, and why it is not minbert; empty: it is, or no
    cell's engine is `auto`.

    Raises:
        InputError: if all cells are of engine minbert, which can't load a model.
    """
    engines = {variant.engine for variant in grid.variants}
    why = next((model.why_not_minbert for model in models if model.why_not_minbert), "")
    if why and engines == {MINBERT}:
        raise InputError(f"--engine {MINBERT}: {why}; take --engine {TRANSFORMERS}")
    why = (why or why_not_minbert(grid)) if AUTO in engines else ""
    return (TRANSFORMERS if why else MINBERT), why


def _check_minbert(cells: Sequence[Cell], models: Mapping[str, Model], grid: Grid) -> None:
    """Refuse cells of engine minbert with a model that it can't load."""
    for cell in cells:
        if cell.engine == MINBERT and (why := models[cell.model].why_not_minbert):
            raise InputError(
                f"grid {grid.name} has cells of engine {MINBERT}: {why}; leave them out with "
                f"--select engine={TRANSFORMERS}"
            )


def _engine_notes(why: str, models: int) -> list[str]:
    every = " of all models, so that costs are comparable" if models > 1 else ""
    return [f"engine {TRANSFORMERS}{every}: {why}"] if why else []


def _lengths(
    grid: Grid, models: Mapping[str, Model], engine: str, data: Data
) -> dict[str, tuple[int, str]]:
    """What `max_length` auto stands for in the tokens of each model, with a note, if the grid has
    it.

    Args:
        engine: whose tokenizers are used.
    """
    lengths = {}
    for name, model in models.items() if grid.has_auto_length else ():
        longest = model.config.max_position_embeddings
        length, note = find_length(data, tokenizer_of(engine, model.tokenizer), longest)
        lengths[name] = length, f"{name}: {note}" if len(models) > 1 else note
    return lengths


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        note_to_stderr(note)


def _power(
    cells: Sequence[Cell], examples: Data, folds: Folds | None, metric: str | None
) -> list[str]:
    """The note on what differences of scores can be shown."""
    dev = sum(size.dev for size in examples.sizes.values())
    number = dev if folds is None else len(folds.examples)
    return power_note(cells, number, metric_of(metric or examples.task.metric))


PlanNow = Callable[[Sequence[Cell]], list[Planned]]


def rounds(
    cells: Sequence[Cell], plan_now: PlanNow, search: Search | None
) -> Iterator[list[Planned]]:
    """The plans of a run: those of a search for learning rates, if any, then the grid's own."""
    if search is None:
        yield plan_now(cells)
        return
    for candidates in search.rounds():
        yield plan_now(candidates)
    rated = [search.found(cell) or without_rates(cell) for cell in cells]
    yield [
        _without_rates(item, search.statuses(item.cell)) if lacks_rates(item.cell) else item
        for item in plan_now(rated)
        if item.repeat == 1 or not lacks_rates(item.cell)
    ]


def _without_rates(item: Planned, tries: tuple[str, ...]) -> Planned:
    return replace(item, action=SKIP, reason=why_no_rates(tries), tries=tries)


def _next_round(
    cells: Sequence[Cell], plan_now: PlanNow, search: Search | None
) -> tuple[list[Planned], int | None]:
    """The first plan of a run that has cells to run, or the last, and its round of the search.

    The round is None for the grid's own plan.
    """
    planned: list[Planned] = []
    number = 0
    for planned in rounds(cells, plan_now, search):
        number += 1
        if any(item.action == "run" for item in planned):
            break
    is_search = any(item.cell.learning_rate_source == CANDIDATE for item in planned)
    return planned, number if is_search else None


def override(grid: Grid, values: dict[str, Any]) -> Grid:
    """The grid, with settings replaced by the flags that were given."""
    given = {name: value for name, value in values.items() if value is not None}
    return gridfile.with_settings(grid, given) if given else grid


def _load_data(settings: Settings, source: Source) -> tuple[Data, Folds | None]:
    """The examples, of folds those of the first, and the folds if there are any."""
    if source.folder is None and not find_task(source.task).files:
        fetch("vader")
    caps = {"max_train": settings.max_train, "max_dev": settings.max_dev}
    if settings.folds is None:
        return load_data(source.task, source.folder, **caps), None
    folds = Folds(load_data(source.task, source.folder), settings.folds, **caps)
    return folds.fold(0), folds


if __name__ == "__main__":
    run_command(command)
