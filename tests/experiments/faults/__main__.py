"""Strike grids with faults at random moments, and count what they lose or do twice.

Examples: `python -m tests.experiments.faults --n 1000`,
`python -m tests.experiments.faults --slurm 1000`
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Gone
from rich.progress import TimeRemainingColumn as Left

from tests.experiments.faults import slurm as slurm_faults
from tests.experiments.faults.case import Verdict
from tests.experiments.faults.kinds import draw
from tests.experiments.faults.suite import run_suite, summary, table

_COLUMNS: Final = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Gone(), Left(),
)  # fmt: skip


@click.command(help=__doc__)
@click.option("--n", "count", default=1000, show_default=True, help="Faults.")
@click.option("--slurm", type=int, help="So many on Slurm clusters, and no other.")
@click.option("--seed", default=0, show_default=True, help="What is drawn follows from it.")
@click.option("--real", type=int, help="Faults that strike real workers; by default one in eight.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Faults at a time.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the grids run.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def main(
    count: int,
    slurm: int | None,
    seed: int,
    real: int | None,
    jobs: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    if slurm is not None:
        _on_clusters(slurm, seed, jobs, folder, as_json)
        return
    console = Console(stderr=True)
    place = Path(tempfile.mkdtemp(prefix="minbert-faults-", dir=folder))
    begun, bad = time.monotonic(), 0
    with Progress(*_COLUMNS, console=console) as progress:
        bar = progress.add_task("faults", total=count)

        def on_verdict(verdict: Verdict) -> None:
            nonlocal bad
            bad += not verdict.good
            progress.update(bar, advance=1, description=f"faults, {bad} bad")
            for line in _said(verdict):
                progress.console.print(line, soft_wrap=True, markup=False, highlight=False)

        faults = draw(count, count // 8 if real is None else min(real, count), seed)
        found = run_suite(faults, jobs=jobs, folder=place, on_verdict=on_verdict)
    seconds = time.monotonic() - begun
    counts = summary(found, seed, seconds)
    if as_json:
        click.echo(json.dumps(counts, indent=2))
    else:
        _print(found, counts)
    if bad:
        console.print(f"kept for a look: {place}", soft_wrap=True)
        sys.exit(1)
    place.rmdir()


def _on_clusters(faults: int, seed: int, jobs: int, folder: Path | None, as_json: bool) -> None:
    """Strike grids on clusters."""
    console = Console(stderr=True)
    place = Path(tempfile.mkdtemp(prefix="minbert-faults-", dir=folder))
    begun = time.monotonic()
    with Progress(*_COLUMNS, console=console) as progress:
        bar = progress.add_task("faults", total=faults)

        def on_verdict(verdict: slurm_faults.Verdict) -> None:
            progress.update(bar, advance=verdict.injected.total())
            for name in slurm_faults.BAD:
                for line in getattr(verdict, name):
                    text = f"round {verdict.seed}: {name}: {line}"
                    progress.console.print(text, soft_wrap=True, markup=False, highlight=False)

        verdicts = slurm_faults.run_rounds(
            faults, seed, jobs=jobs, folder=place, on_verdict=on_verdict
        )
    counts = slurm_faults.summary(verdicts, seed, time.monotonic() - begun) | {"jobs": jobs}
    click.echo(json.dumps(counts, indent=2) if as_json else slurm_faults.text(counts))
    if counts["bad"]:
        console.print(f"kept for a look: {place}", soft_wrap=True)
        sys.exit(1)
    shutil.rmtree(place)


def _said(verdict: Verdict) -> list[str]:
    """A line on each thing that is wrong."""
    fault = verdict.fault
    name = f"fault {fault.number} ({fault.kind}, {fault.phase}, {fault.worker} worker)"
    return [
        f"{name}: {kind}: {said}"
        for kind in ("lost", "duplicated", "left_running", "wrong")
        for said in getattr(verdict, kind)
    ]


def _print(found: Sequence[Verdict], counts: dict[str, object]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(found))
    console.print(
        f"{counts['injected']} injected, {counts['at_real_workers']} of them at real workers, "
        f"{counts['missed']} found nothing to strike; {counts['lost']} lost, "
        f"{counts['duplicated']} duplicated, {counts['left_running']} left running, "
        f"{counts['wrong']} otherwise wrong; seed {counts['seed']}, {counts['seconds']} s",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"limits by: {counts['means'] or 'none was needed'}", soft_wrap=True)


if __name__ == "__main__":
    main()
