"""Command lines that repeat what a report shows."""

import shlex
from collections.abc import Sequence

from bench import gridfile
from bench.groups import Group
from bench.schema import SEARCHED
from minbert.tasks import TASKS


def commands(group: Group, sources: Sequence[str]) -> list[str]:
    """Command lines that repeat a group, one of its cells, and this report.

    A grid that does not come with the project is named as its file, which its user has; the folder
    of a task's files is left to fill in. Rates that a search found are searched again.
    """
    values = {name: group.shared(name) for name in ("model", "init", "task", "epochs")}
    values |= {name: group.shared(name) for name in ("max_steps", "max_train", "max_dev")}
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(_line(str(value)))}"
        for name, value in values.items()
        if value is not None
    ]
    seeds = [int(row.get("seed") or 0) for row in group.rows]
    options.append(f"--seeds {max(seeds) + 1}")
    device = str(group.shared("device") or "auto")
    name = _line(str(group.shared("grid") or "full"))
    grid = shlex.quote(name if name in gridfile.names() else f"{name}.toml")
    task = TASKS.get(str(group.shared("task")))
    if task is not None and task.files:
        options.append("--data DIR")
    run = f"python -m bench.grid --grid {grid} {' '.join(options)} --device {shlex.quote(device)}"
    found = {row.get("learning_rate_source") == SEARCHED for row in group.rows}
    runs_of = {searched: f"{run} --lr auto" if searched else run for searched in sorted(found)}
    row = group.first
    one = runs_of[row.get("learning_rate_source") == SEARCHED]
    names = ["mode", "rank", "layers", "amp", "batch_size"]
    names += ["unfreeze"] * (row.get("unfreeze") not in (None, "all"))
    rates = any(setting.tells_rate and row in setting.rows for setting in group.settings)
    names += ["learning_rate"] * (rates and row.get("learning_rate_source") != SEARCHED)
    axes = [f"{name}={row[name]}" for name in names if row.get(name)]
    select = shlex.quote(_line(" ".join([*axes, f"seed={row.get('seed') or 0}"])))
    runs = " ".join(shlex.quote(_line(name)) for name in sources) or "runs.csv"
    return [
        *runs_of.values(), f"{one} --select {select} --rerun ok",
        f"python -m bench.report --runs {runs} --reports reports/",
    ]  # fmt: skip


def _line(text: str) -> str:
    return " ".join(text.split())
