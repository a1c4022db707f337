"""Command lines that repeat what a report shows."""

import re
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bench.analysis.costs import NEEDS
from bench.analysis.groups import Group
from bench.analysis.recommendation import Recommendation
from bench.analysis.setting import Setting
from bench.plan import gridfile
from bench.plan.cell import MINBERT, OFF, SEARCHED, TRANSFORMERS
from bench.plan.columns import format_value
from bench.plan.dataset import HUB
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.plan.selection import AXES
from bench.results.facts import DataFacts
from minbert.data.tasks import TASKS

NOTE: Final = (
    "The grids of the cells at the top, one of these cells, and this report without running "
    "anything. A grid may have more cells than are shown here; --select narrows it. A grid "
    "file is named without its folder. --data takes the path of the data, with the options that "
    "describe it; a checkpoint in a folder takes its path as --model."
)
_GRID: Final = "python -m bench.grid --grid"
_MOST_GRIDS: Final = 8
_USUAL: Final = {"engine": MINBERT, "batching": "by-length", "compile": OFF}
"""Values that a selection does not name."""
_POINT: Final = tuple(name for name in AXES if name not in ("seed", "fold"))
"""The axes of a setting."""
_RUNS: Final = "runs.csv"
"""The file that commands read by default."""


def commands(
    group: Group,
    sources: Sequence[str],
    code_version: str | None = None,
    facts: Mapping[str, DataFacts] = MappingProxyType({}),
) -> list[str]:
    """Command lines for the grids of a group, for one of its cells, and for this report.

    A user's own grid is named by its file; the folder of a task's files is left for the user to
    fill in, and the user's files have the names that the facts have. Rates that a search chose
    are searched again.
    """
    options = options_of(group, facts)
    grids = sorted({_grid(group, row) for row in group.rows})[:_MOST_GRIDS]
    lines = [f"{_GRID} {grid} {options}{search}" for search, grid in grids]
    one = f"{_alone(group, group.first, options, AXES)} --rerun ok"
    narrow = "" if code_version is None else f" --code-version {_word(code_version)}"
    report = f"python -m bench.report --runs {_runs(sources)} --reports reports/{narrow}"
    return [*lines, one, f"{report}{_metric(group)}"]


def options_of(group: Group, facts: Mapping[str, DataFacts] = MappingProxyType({})) -> str:
    """The options that all command lines of a group's grids share."""
    return f"{_options(group, facts)}{_metric(group)}"


def command_of(group: Group, setting: Setting, options: str) -> str:
    """The command line that repeats the cells of a setting.

    Args:
        options: those of `options_of`.
    """
    seeds = 1 + max(row.seed for row in setting.rows)
    options = re.sub(r"(?<= --seeds )\d+", str(seeds), options, count=1)
    return f"{_alone(group, setting.rows[0], options)} --rerun ok"


def _alone(group: Group, row: Row, options: str, axes: Sequence[str] = _POINT) -> str:
    """The command line of the cells that have the values of a row on some axes."""
    search, grid = _grid(group, row)
    return f"{_GRID} {grid} {options}{search} --select {_cell(group, row, search, axes)}"


def confirm_command(
    recommended: Recommendation, trainings: int, facts: Mapping[str, DataFacts]
) -> str:
    """The command line that trains the recommended setting alone until it has so many trainings:
    by --confirm, where it is what bench.grid recommends, too."""
    known, group = recommended.candidates, recommended.candidates.group
    row = known.settings[recommended.pick or 0].rows[0]
    usual = not recommended.limits and recommended.prefer == NEEDS[0]
    if usual and known.margin == group.margin:
        return f"{_alone(group, row, options_of(group, facts))} --confirm {trainings}"
    return _alone(group, row, _options(group, facts, {"seeds": trainings}) + _metric(group))


def recommend_command(group: Group, sources: Sequence[str]) -> str:
    """The command line that recommends a setting, to which limits can be added."""
    return f"python -m bench.recommend --runs {_runs(sources)}{_metric(group)}"


def export_command(recommended: Recommendation, sources: Sequence[str]) -> str:
    """The command line that exports the model of a recommended setting."""
    known, group = recommended.candidates, recommended.candidates.group
    limits = " ".join(limit.text for limit in recommended.limits)
    options = {
        "--prefer": recommended.prefer if recommended.prefer != NEEDS[0] else "",
        "--where": limits,
        "--margin": f"{known.margin:g}" if known.margin != group.margin else "",
        "--runs": " ".join(source for source in sources if source != _RUNS),
    }
    chosen = "".join(f" {name} {_word(value)}" for name, value in options.items() if value)
    return f"python -m bench.export recommended{chosen}{_metric(group)} --to my-model"


def _runs(sources: Sequence[str]) -> str:
    return " ".join(map(_word, sources)) or _RUNS


def _metric(group: Group) -> str:
    """The option of a metric that is not in the rows."""
    return f" --metric {group.metric}" if group.metric and group.metric not in ROW_METRICS else ""


def narrowed(
    group: Group,
    facts: Mapping[str, DataFacts] = MappingProxyType({}),
    *,
    select: str = "",
    rerun: str = "",
    lr: str = "",
    **options: object,
) -> str:
    """The command line of a group's grid, narrowed by --select, with other values of options.

    Args:
        rerun: the status of cells that run again.
        lr: `auto` for a search for learning rates.
        options: values of options that replace the group's, such as seeds.
    """
    search, grid = _grid(group, group.first)
    search = f" --lr {lr}" if lr else search
    narrow = f" --select {_word(select)}" if select else ""
    again = f" --rerun {rerun}" if rerun else ""
    every = f"{_options(group, facts, options)}{_metric(group)}"
    return f"{_GRID} {grid} {every}{search}{narrow}{again}"


def _grid(group: Group, row: Row) -> tuple[str, str]:
    """The option of a search if the row's rates are of one, and the name or file of its grid."""
    grid = row.grid or str(group.shared("grid") or "full")
    search = " --lr auto" if row.learning_rate_source == SEARCHED else ""
    return search, _word(grid if grid in gridfile.names() else f"{grid}.toml")


def _cell(group: Group, row: Row, search: str, axes: Sequence[str]) -> str:
    """A selection by a row's values on some axes, by its rate too where rates vary."""
    values = {name: row[name] for name in axes if row[name] != _USUAL.get(name)}
    if row.mode == "head":
        values["learning_rate"] = row.learning_rate_head
    if search or not any(setting.tells_rate for setting in group.settings):
        values["learning_rate"] = None
    if len(_models(group)) == 1:
        values["model"] = None  # an option of its own
    texts = {name: format_value(value) for name, value in values.items()}
    return _word(" ".join(f"{name}={text}" for name, text in texts.items() if text))


def _models(group: Group) -> list[str]:
    """The names of a group's models."""
    return list({row.model_digest: row.model for row in group.rows}.values())


def _options(
    group: Group,
    facts: Mapping[str, DataFacts],
    others: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """The options of a group's grid; of those in `others`, with their values there."""
    names = ("model", "init", "task", "folds", "epochs", "early_stopping", "max_steps", "max_train",
             "max_dev")  # fmt: skip
    options = [
        f"--{name.replace('_', '-')} {_word(value)}"
        for name in names
        if (value := others.get(name, group.shared(name))) is not None
    ]
    options[0] = f"--model {_word(','.join(_models(group)))}"
    if group.first.engine == TRANSFORMERS:
        options.insert(1, f"--engine {TRANSFORMERS}")
    # without the further seeds of one setting that --confirm trained alone
    seeds = sorted(1 + max(row.seed for row in setting.rows) for setting in group.settings)
    options.append(f"--seeds {others.get('seeds', seeds[-2:][0])}")
    if (repeats := max(row.repeat for row in group.rows)) > 1:
        options.append(f"--repeats {repeats}")
    lengths, grid = {row.max_length for row in group.rows}, str(group.shared("grid") or "full")
    length = group.shared("max_length") if len(lengths) == 1 else "auto"
    own = grid not in gridfile.names()
    if length is not None and (own or gridfile.load(grid).settings.max_length != length):
        options.append(f"--max-length {length}")
    options += _data(group, facts)
    return " ".join([*options, *_devices(group)])


def _devices(group: Group) -> list[str]:
    """The options for the devices of a group, and for as many workers at a time."""
    device = str(group.shared("device") or "auto")
    workers = str(group.shared("sharing") or "").removesuffix(" workers")
    if not workers.isdecimal():
        return [f"--device {_word(device)}"]
    if device == "cpu":
        return ["--device cpu", f"--jobs {workers}"]
    every = sorted({row.device for row in group.rows})
    return [f"--device {','.join(every) if len(every) == int(workers) else 'all'}"]


def _data(group: Group, facts: Mapping[str, DataFacts]) -> list[str]:
    """The options for a task's files, or for the user's own data."""
    task = TASKS.get(str(group.shared("task")))
    if task is not None:
        return ["--data DIR"] if task.files else []
    known = facts.get(str(group.shared("data_digest")))
    source = (known and known.source) or "FILE"
    if source.startswith(HUB):
        path, _, config = source.removesuffix(")").partition(" (")
        return [f"--data {_word(path)}", *([f"--data-config {_word(config)}"] if config else [])]
    path, _, dev = source.partition(", ")
    return [f"--data {_word(path)}", *([f"--validation {_word(dev)}"] if dev else [])]


def _word(value: object) -> str:
    """A value as one word of a command line, without line breaks."""
    return shlex.quote(" ".join(str(value).split()))
