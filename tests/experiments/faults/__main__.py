"""Strike grids with faults at random moments, and count what they lose or do twice.

Examples: `python -m tests.experiments.faults --n 1000`,
`python -m tests.experiments.faults --slurm 1000`"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.experiments.faults import slurm as slurm_faults
from tests.experiments.faults.case import run_suite, summary
from tests.experiments.faults.checks import BAD
from tests.experiments.faults.kinds import draw


@click.command(help=__doc__)
@click.option("--n", "count", default=1000, show_default=True, help="Faults.")
@click.option("--slurm", type=int, help="So many on Slurm clusters, and no other.")
@click.option("--seed", default=0, show_default=True, help="What is drawn follows from it.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Faults at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def main(count, slurm, seed, jobs, as_json):
    place = Path(tempfile.mkdtemp(prefix="minbert-faults-"))
    begun = time.monotonic()
    if slurm is None:
        verdicts = run_suite(draw(count, count // 8, seed), jobs=jobs, folder=place)
        counts = summary(verdicts, seed, time.monotonic() - begun)
    else:
        verdicts = slurm_faults.run_rounds(slurm, seed, jobs=jobs, folder=place)
        counts = slurm_faults.summary(verdicts, seed, time.monotonic() - begun) | {"jobs": jobs}
    for verdict in verdicts:
        for line in verdict.lines():
            click.echo(f"{verdict.name}: {line}", err=True)
    bad = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in BAD)
    line = f"{counts['injected']} injected, {counts['missed']} missed: {bad}"
    click.echo(json.dumps(counts, indent=2) if as_json else line)
    if counts["bad"]:
        click.echo(f"kept for a look: {place}", err=True)
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
