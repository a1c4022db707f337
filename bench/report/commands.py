"""Command lines that repeat what a report shows."""

import shlex
from collections.abc import Sequence

from bench import gridfile
from bench.groups import Group


def commands(group: Group, sources: Sequence[str]) -> list[str]:
    """Command lines that repeat a group, one of its cells, and this report.

    A grid that does not come with the project is named as its file, which its user has.
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
    run = f"python -m bench.grid --grid {grid} {' '.join(options)} --device {shlex.quote(device)}"
    row = group.first
    axes = [f"{name}={row[name]}" for name in ("mode", "rank", "layers", "amp") if row.get(name)]
    select = shlex.quote(_line(" ".join([*axes, f"seed={row.get('seed') or 0}"])))
    runs = " ".join(shlex.quote(_line(name)) for name in sources) or "runs.csv"
    return [
        run, f"{run} --select {select} --rerun ok",
        f"python -m bench.report --runs {runs} --reports reports/",
    ]  # fmt: skip


def _line(text: str) -> str:
    return " ".join(text.split())
