"""Strike grids with faults at random moments, and count what they lose or do twice.

Example: python -m tests.faults --n 1000
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Gone
from rich.progress import TimeRemainingColumn as Left

from tests.faults.case import Verdict
from tests.faults.kinds import draw
from tests.faults.suite import run_suite, summary, table


@click.command(help=__doc__)
@click.option("--n", "count", default=1000, show_default=True, help="Faults.")
@click.option("--seed", default=0, show_default=True, help="What is drawn follows from it.")
@click.option("--real", type=int, help="Faults that strike real workers; by default one in eight.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Faults at a time.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the grids run.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def main(
    count: int, seed: int, real: int | None, jobs: int, folder: Path | None, as_json: bool
) -> None:
    console = Console(stderr=True)
    place = Path(tempfile.mkdtemp(prefix="minbert-faults-", dir=folder))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Gone(), Left())
    begun, bad = time.monotonic(), 0
    with Progress(*columns, console=console) as progress:
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
