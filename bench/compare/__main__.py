"""Compare two sets of results: what is worse, by how much, and how sure that is.

Example: python -m bench.compare before.csv after.csv
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.plan.metrics import METRICS

_EPILOG: Final = """\b
Exit codes: 0 no regression, 1 a regression or a newly failing cell, 2 bad input or nothing
comparable. docs/comparing.md explains the verdicts.

\b
Examples:
  python -m bench.compare before.csv after.csv
  python -m bench.compare runs.csv --base "amp=off" --new "amp=bf16"
  python -m bench.compare runs.csv --base "code_version=0.1.0+g1" --new "code_version=0.1.0+g2"
  python -m bench.compare before.csv after.csv --max-slowdown 10% --strict --json
"""


@click.command(
    "python -m bench.compare", help=__doc__.partition("\n\n")[0] if __doc__ else None,
    epilog=_EPILOG,
)  # fmt: skip
@click.argument("places", nargs=-1, type=click.Path(path_type=Path), metavar="BASE.csv [NEW.csv]")
@click.option(
    "--base", metavar="TERMS",
    help='The rows of BASE, such as "amp=off layers=attn,all-lin"; any column of runs.csv.',
)  # fmt: skip
@click.option("--new", metavar="TERMS", help="The rows of NEW.")
@click.option(
    "--max-slowdown", metavar="SIZE", default="5%", show_default=True,
    help="How much slower NEW may be.",
)  # fmt: skip
@click.option(
    "--max-memory", metavar="SIZE", default="2%", show_default=True,
    help="How much more memory it may take, at its peak and kept for the backward pass.",
)  # fmt: skip
@click.option(
    "--max-work", metavar="SIZE", default="2%", show_default=True,
    help="How much more work of a training step may be counted: operations, operators, bytes.",
)  # fmt: skip
@click.option(
    "--max-score-drop", metavar="SIZE", default="0.5pt", show_default=True,
    help="How much worse its scores may be: 0.5pt is half a hundredth, 2% a share of BASE's.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 also where too few repeats decide.")
@click.option(
    "--metric", type=click.Choice(list(METRICS)), metavar="NAME",
    help="Compare this metric, computed from kept predictions. Each row's own by default.",
)  # fmt: skip
@click.option(
    "--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True,
    help="Folder to write compare.html, compare.md, compare.json and compare/ into.",
)  # fmt: skip
@click.option("--json", "json_wanted", is_flag=True, help="Print the JSON alone.")
def command(
    places: Sequence[Path],
    base: str | None,
    new: str | None,
    max_slowdown: str,
    max_memory: str,
    max_work: str,
    max_score_drop: str,
    strict: bool,
    metric: str | None,
    reports: Path,
    json_wanted: bool,
) -> int:
    # imported late: these load numpy and scipy, and the page matplotlib
    from bench.analysis.comparison import compare
    from bench.compare.outcome import Outcome, as_json, is_compared, lines, obstacles
    from bench.compare.sides import limits as parse_limits
    from bench.compare.sides import read_sides

    limits = parse_limits(max_slowdown, max_memory, max_work, max_score_drop)
    looks = 1
    one, other, named = read_sides(places, base, new, metric)
    comparison = compare(
        one.rows, other.rows, limits, named=named, values_of=(one.values_of, other.values_of),
        looks=looks,
    )  # fmt: skip
    if not is_compared(comparison):
        why = "; ".join(f"{why} ({number:,})" for why, number in obstacles(comparison)[:2])
        raise InputError(f"{one.name} and {other.name}: nothing to compare: {why or 'no results'}")
    outcome = Outcome(comparison, one, other, limits, strict, looks)

    from bench.compare.page import write

    page = write(outcome, reports)
    if json_wanted:
        click.echo(json.dumps(as_json(outcome), indent=1, allow_nan=False))
    else:
        click.echo("\n".join([*lines(outcome), str(page)]))
    return outcome.exit_code


if __name__ == "__main__":
    run_command(command)
