"""Command lines that repeat what a report shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.analysis.costs import NEEDS
from bench.analysis.groups import Group
from bench.analysis.recommendation import Recommendation
from bench.analysis.setting import Setting
from bench.common.command import reports_for
from bench.common.messages import command_line
from bench.plan import gridfile
from bench.plan.cell import MINBERT, OFF, SEARCHED, TRANSFORMERS
from bench.plan.columns import format_value
from bench.plan.dataset import DataSpec
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.plan.selection import AXES
from bench.results.facts import NO_FACTS, KnownFacts
from bench.stats.best import FEWEST_SEEDS
from minbert.data.tasks import TASKS

_USUAL: Final = {"engine": MINBERT, "batching": "by-length", "compile": OFF}
"""Values that a selection does not name."""
_POINT: Final = tuple(name for name in AXES if name not in ("seed", "fold"))
"""The axes of a setting."""
_RUNS: Final = "runs.csv"  # the file that commands read by default


def commands(
    group: Group, sources: Sequence[str], facts: KnownFacts, code_version: str | None = None
) -> list[str]:
    """Command lines for the grids of a group, for one of its cells, and for this report. The folder
    of a task's files is left to the user; rates that a search chose are searched again."""
    options = options_of(group, facts)
    grids = sorted({_grid(group, row) for row in group.rows}, key=lambda one: one[::-1])
    of_grid = options_of(group, facts, {"seeds": None}) if group.race else options
    lines = [_line(group, g, *of_grid, *search, race=bool(group.race)) for g, search in grids[:8]]
    if not group.is_race:
        lines.append(_alone(group, group.first, options, "--rerun", "ok", axes=AXES))
    narrow = [] if code_version is None else ["--code-version", code_version]
    runs = [*(sources or [_RUNS])]
    into = f"{reports_for(Path(runs[0]))}/"
    report = ["--runs", *runs, "--reports", into, *narrow, *_metric(group)]
    return [*lines, command_line("report", *report)]


def command_of(group: Group, setting: Setting, options: Sequence[str]) -> str:
    """The command line that repeats the cells of a setting, with the options of `options_of`."""
    options = [*options]
    options[options.index("--seeds") + 1] = str(1 + max(row.seed for row in setting.rows))
    return _alone(group, setting.rows[0], options, "--rerun", "ok")


def _line(group: Group, grid: str, *words: str, race: bool = False) -> str:
    named = grid in gridfile.names()
    races = gridfile.load(grid).settings.race if named else bool(group.race) and not race
    flag = [] if race == races else ["--race" if race else "--no-race"]
    return command_line("grid", "--grid", grid, *words, *flag)


def _alone(
    group: Group, row: Row, options: Sequence[str], *more: str, axes: Sequence[str] = _POINT
) -> str:
    """The command line of the cells that have the values of a row on some axes."""
    grid, search = _grid(group, row)
    cell = _cell(group, row, bool(search), axes)
    return _line(group, grid, *options, *search, "--select", cell, *more)


def confirm_command(recommended: Recommendation, trainings: int, facts: KnownFacts) -> str:
    """The command line that trains the recommended setting alone until it has so many trainings:
    by --confirm, where it is what bench.grid recommends, too."""
    known, group = recommended.candidates, recommended.candidates.group
    row = known.settings[recommended.pick or 0].rows[0]
    if recommended.is_usual:
        return _alone(group, row, options_of(group, facts), "--confirm", str(trainings))
    return train_command(group, row, trainings, facts)


def train_command(group: Group, row: Row, seeds: int, facts: KnownFacts = NO_FACTS) -> str:
    """The command line that trains a row's setting alone, on all examples, with so many seeds."""
    return _alone(group, row, options_of(group, facts, {"seeds": seeds}))


def recommend_command(group: Group, sources: Sequence[str]) -> str:
    """The command line that recommends a setting, to which limits can be added."""
    return command_line("recommend", "--runs", *(sources or [_RUNS]), *_metric(group))


def export_command(
    recommended: Recommendation, sources: Sequence[str], cell: str = "recommended"
) -> str:
    """The command line that exports a cell by its name, or the recommended setting's."""
    known, group = recommended.candidates, recommended.candidates.group
    options = {
        "--prefer": recommended.prefer if recommended.prefer != NEEDS[0] else "",
        "--where": " ".join(limit.text for limit in recommended.limits),
        "--margin": f"{known.margin:g}" if known.margin != group.margin else "",
        "--runs": " ".join(source for source in sources if source != _RUNS),
    }
    chosen = [word for pair in options.items() if pair[1] for word in pair]
    return command_line("export", cell, *chosen, *_metric(group), "--to", "my-model")


def _metric(group: Group) -> list[str]:
    return ["--metric", group.metric] if group.metric and group.metric not in ROW_METRICS else []


def narrowed(
    group: Group,
    facts: KnownFacts = NO_FACTS,
    *,
    select: str = "",
    rerun: str = "",
    lr: str = "",
    **options: object,
) -> str:
    """The command line of a group's grid, narrowed by --select, with other values of options, and
    with --rerun and --lr, which searches with as many seeds as a recommendation needs."""
    grid, search = _grid(group, group.first)
    if lr:
        search = ("--lr", lr)
        options = {"seeds": max(FEWEST_SEEDS, group.usual_seeds), **options}
    narrow = ["--select", select] if select else []
    again = ["--rerun", rerun] if rerun else []
    if group.race:
        options = {**options, "seeds": None}
    every = [*options_of(group, facts, options), *search, *narrow, *again]
    return _line(group, grid, *every, race=bool(group.race))


def _grid(group: Group, row: Row) -> tuple[str, tuple[str, ...]]:
    """The name or file of a row's grid, and the option of a search if its rates are of one."""
    grid = row.grid or str(group.shared("grid") or "full")
    search = ("--lr", "auto") if row.learning_rate_source == SEARCHED else ()
    return grid if grid in gridfile.names() else f"{grid}.toml", search


def _cell(group: Group, row: Row, search: bool, axes: Sequence[str]) -> str:
    """A selection by a row's values on some axes, by its rate too where rates vary."""
    values = {name: row[name] for name in axes if row[name] != _USUAL.get(name)}
    if row.mode == "head":
        values["learning_rate"] = row.learning_rate_head
    if search or not any(setting.tells_rate for setting in group.settings):
        values["learning_rate"] = None
    if len(_models(group)) == 1:
        values["model"] = None  # an option of its own
    texts = {name: format_value(value) for name, value in values.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items() if text)


def _models(group: Group) -> list[str]:
    return list({row.model_digest: row.model for row in group.rows}.values())


def options_of(
    group: Group, facts: KnownFacts, others: Mapping[str, object] = MappingProxyType({})
) -> list[str]:
    """The options that all command lines of a group's grids share, as words; `others` go first."""
    names = ("model", "engine", "init", "task", "folds", "epochs", "early_stopping",
             "max_steps", "max_train", "max_dev")  # fmt: skip
    values = {name: others.get(name, group.shared(name)) for name in names}
    values["model"] = ",".join(_models(group))
    values["engine"] = TRANSFORMERS if group.first.engine == TRANSFORMERS else None
    values["seeds"] = others.get("seeds", group.usual_seeds)
    if (repeats := max(row.repeat for row in group.rows)) > 1:
        values["repeats"] = repeats
    lengths, grid = {row.max_length for row in group.rows}, str(group.shared("grid") or "full")
    length = group.shared("max_length") if len(lengths) == 1 else "auto"
    own = grid not in gridfile.names()
    if length is not None and (own or gridfile.load(grid).settings.max_length != length):
        values["max_length"] = length
    values["window_stride"] = group.shared("window_stride") or None
    values |= _data(group, facts) | _devices(group)
    given = {name: str(value) for name, value in values.items() if value is not None}
    words = [word for n in given for word in (f"--{n.replace('_', '-')}", given[n]) if word]
    return [*words, *_metric(group)]


def _devices(group: Group) -> dict[str, str]:
    device = str(group.shared("device") or "auto")
    workers = str(group.shared("sharing") or "").removesuffix(" workers")
    if not workers.isdecimal():
        return {"device": device}
    if device == "cpu":
        return {"device": device, "jobs": workers}
    every = sorted({row.device for row in group.rows})
    return {"device": ",".join(every) if len(every) == int(workers) else "all"}


def _data(group: Group, facts: KnownFacts) -> dict[str, str]:
    task = TASKS.get(str(group.shared("task")))
    if task is not None:
        return {"data": "DIR"} if task.files else {}
    known = facts.get(str(group.shared("data_digest")))
    given = (known and known.given) or {"path": "FILE"}
    names = {"path": "data", "config": "data_config"}
    return {names.get(name, name): given[name] for name in DataSpec.model_fields if name in given}
