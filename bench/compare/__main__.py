"""Compare two sets of results: what is worse, by how much, and how sure that is.

Exit codes: 0 no regression, 1 a regression or a newly failing cell (with --strict also if a
regression is not excluded), 2 bad input or nothing comparable. docs/comparing.md explains the
verdicts.

Examples:
  python -m bench.compare before.csv after.csv
  python -m bench.compare runs.csv --base "amp=off" --new "amp=bf16"
  python -m bench.compare runs.csv --base "code_version=0.1.0+g1" --new "code_version=0.1.0+g2"
  python -m bench.compare before.csv after.csv --max-slowdown 10% --strict --json
  python -m bench.compare --run ../before . --grid docs/steps.toml
  python -m bench.compare --run --grid smoke --base "amp=off" --new "amp=bf16" -- --max-steps 50
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from bench.common.command import FILE, described, options_in, run_command
from bench.common.errors import InputError
from bench.common.messages import echo
from bench.plan.metrics import METRICS

_ROUNDS: Final = 24
_FOLDER: Final = Path("runs/compare")
_with_flags: Final = options_in(
    __file__,
    "options.toml",
    {"folder": click.Path(path_type=Path, file_okay=False), "metric": click.Choice(list(METRICS))},
)


class _Command(click.Command):
    """A command that keeps what follows `--`, options of bench.grid, as its context's object."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            end = args.index("--")
            args, ctx.obj = args[:end], args[end + 1 :]
        return super().parse_args(ctx, args)


@described(__doc__, _Command)
@click.argument("places", nargs=-1, type=FILE, metavar="BASE [NEW]")
@_with_flags
@click.pass_obj
def command(
    options: list[str] | None, places: Sequence[Path], base: str | None, new: str | None,
    max_slowdown: str, max_memory: str, max_work: str, max_score_drop: str, strict: bool,
    metric: str | None, reports: Path, json_wanted: bool, run: bool, grid: str | None,
    select: str | None, rounds: int | None, runs: Path | None,
) -> int:  # fmt: skip
    # imported late: these load numpy and scipy, and the page matplotlib
    from bench.compare.alternating import Alternation
    from bench.compare.conclusion import as_json, conclude, summary
    from bench.compare.sides import limits as parse_limits
    from bench.compare.sides import read_sides
    from bench.launch.checks import check_reports

    limits = parse_limits(max_slowdown, max_memory, max_work, max_score_drop)
    if run:
        if grid is None:
            raise InputError("--run needs --grid, a name or a TOML file")
        check_reports(reports, "compare")
        files, named, looks = Alternation(
            places=places, grid=grid, selection=select or "", terms=(base or "", new or ""),
            rounds=rounds or _ROUNDS, folder=runs or _FOLDER, options=options or (), limits=limits,
        ).measure()  # fmt: skip
        one, other, _ = read_sides(files, None, None, metric)
        sources = [place.resolve() for place in places] or [Path(grid)] * 2
        one = replace(one, source=sources[0], terms=base or "")
        other = replace(other, source=sources[1], terms=new or "")
    else:
        names = ("--grid", "--select", "--rounds", "--runs", "--")
        for name, value in zip(names, (grid, select, rounds, runs, options), strict=True):
            if value is not None:
                raise InputError(f"{name} needs --run")
        one, other, named = read_sides(places, base, new, metric)
        looks = 1
    conclusion = conclude(one, other, limits, named, strict, looks)

    from bench.compare.page import write

    page = write(conclusion, reports)
    if json_wanted:
        echo(json.dumps(as_json(conclusion), indent=1, allow_nan=False))
    else:
        echo("\n".join([*summary(conclusion, details=True), str(page)]))
    return conclusion.exit_code


if __name__ == "__main__":
    run_command(command)
