"""The changes that training made to a model's weights, and whether they have low rank: singular
values of each linear layer's update, for cells that ran with --save-weights.

Example: python -m bench.updates --runs runs.csv --reports reports/
"""

from pathlib import Path
from typing import Final

import click

from bench.common.command import run_command, with_runs
from bench.common.csvfile import check_csv
from bench.common.errors import InputError
from bench.launch.checks import check_reports
from bench.studies.updates.outcome import PAGES, updates_of
from bench.studies.updates.truncation import parse_ranks

_EPILOG: Final = """\b
Examples:
  python -m bench.updates
  python -m bench.updates --runs full.csv adapters.csv --csv updates.csv --reports reports/
  python -m bench.updates --truncate 0,1,5,8,10,32
  python -m bench.updates --runs sst.csv --truncate 0,1,8 --data path/to/data --json
"""


@click.command("python -m bench.updates", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@with_runs("Results files whose cells have kept their weights, one or several.")
@click.option(
    "--truncate",
    metavar="K[,K]",
    help="Also cut the updates of full fine-tuning to these ranks, and score them on dev.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the tasks' files, for --truncate."
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    help="Write a CSV with a row for each cell and layer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    help="Write updates.md and updates.html to this folder.",
)
def command(
    runs: list[Path],
    truncate: str | None,
    data: Path | None,
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
) -> int:
    if data is not None and truncate is None:
        raise InputError("--data: is for --truncate, which scores on dev; leave it out")
    ranks = None if truncate is None else parse_ranks(truncate)
    if csv_file is not None:
        check_csv(csv_file, runs)
    if reports is not None:
        check_reports(reports, PAGES)
    return updates_of(runs, ranks, data, csv_file=csv_file, as_json=as_json, reports=reports)


if __name__ == "__main__":
    run_command(command)
