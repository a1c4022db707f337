"""Render the report again from runs.csv, without running anything.

Example: python -m bench.report --runs runs.csv --reports reports/
"""

import json
import sys
from pathlib import Path

import click

from bench.command import run_command
from bench.errors import DiskFullError, InputError
from minbert.files import is_file

_EPILOG = """\b
Examples:
  python -m bench.report
  python -m bench.report --runs laptop.csv server.csv --reports reports/
"""


@click.command(
    "python -m bench.report",
    help=__doc__.partition("\n")[0] if __doc__ else None,
    epilog=_EPILOG,
)
@click.option(
    "--runs",
    "first",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE...",
    help="Results to show; several are shown together.  [default: runs.csv]",
)
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default="reports",
    show_default=True,
    help="Folder to write index.html, report.md and figures/ into.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="")
def main(first: tuple[Path, ...], reports: Path, as_json: bool, more: tuple[Path, ...]) -> int:
    from bench.predictions import first_of, kept_values
    from bench.store import read_plan, read_rows

    paths = [*first, *more] or [Path("runs.csv")]
    for path in paths:
        if not is_file(path):
            raise InputError(f"{path}: no such file of results; name one with --runs")
    rows = [row for path in paths for row in read_rows(path)]
    planned = [row for path in paths for row in read_plan(path)]

    from bench.report.render import render  # not before: it loads pandas and matplotlib

    try:
        index = render(
            rows,
            reports,
            planned=planned,
            sources=[str(path) for path in paths],
            values_of=first_of([kept_values(path) for path in paths]),
        )
    except DiskFullError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    told = {"rows": len(rows), "report": str(index)}
    click.echo(json.dumps(told) if as_json else f"{len(rows)} rows in {index}")
    return 0


if __name__ == "__main__":
    run_command(main)
