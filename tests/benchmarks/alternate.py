"""Step times of this checkout against those of another one, cell by cell in turn.

Example: python -m tests.benchmarks.alternate ../before --rounds 8 --csv docs/steps.csv

Each round runs the grid once in either checkout, the other one first in every second round, each
cell in a process of its own. Nothing else should run on the machine. Prints, for each setting, the
geometric mean over rounds of the ratio this / other of the time for 1,000 tokens and of peak
memory, with a 95% interval by Student's t, and of the means over all settings the same.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from typing import Final

import click

from bench.stats.intervals import paired_ratio

ROOT: Final = Path(__file__).parents[2]
AXES: Final = ("mode", "rank", "layers", "amp")
MEASURED: Final = ("ms_per_1k_tokens", "peak_rss_mib")


@click.command(help=__doc__)
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--grid", type=click.Path(path_type=Path), default=ROOT / "docs" / "steps.toml")
@click.option(
    "--other-grid",
    type=click.Path(path_type=Path),
    help="The grid as the other checkout must have it, if it lacks a setting of this one's.",
)
@click.option("--rounds", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--csv", "out", type=click.Path(path_type=Path), help="Where the measurements go.")
def main(other: Path, grid: Path, other_grid: Path | None, rounds: int, out: Path | None) -> None:
    lines: list[dict[str, str]] = []
    sides = {"this": (ROOT, grid), "other": (other.resolve(), other_grid or grid)}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            click.echo(f"round {number + 1} of {rounds}: {side}", err=True)
            rows = run(*sides[side])
            lines += [{"round": str(number), "side": side, **row} for row in rows]
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
    for line in table(lines):
        click.echo(line)


def run(checkout: Path, grid: Path) -> list[dict[str, str]]:
    """Rows of a grid that runs in a checkout, as far as they are compared.

    Raises:
        subprocess.CalledProcessError: if a cell did not end ok.
    """
    with TemporaryDirectory() as place:
        runs = Path(place) / "runs.csv"
        subprocess.run(
            [
                *(sys.executable, "-m", "bench.grid", "--grid", str(grid.resolve())),
                *("--runs", str(runs), "--reports", str(Path(place) / "reports")),
            ],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with runs.open(newline="", encoding="utf-8") as file:
            names = ("grid", "measurement_version", "code_version", *AXES, "flags", *MEASURED)
            return [{name: row[name] for name in names} for row in csv.DictReader(file)]


def table(lines: list[dict[str, str]]) -> Iterator[str]:
    """Lines of Markdown: one for each setting, and one for the mean over all of them."""
    yield "| setting | time, this / other | peak memory, this / other |"
    yield "|---|---|---|"
    of_setting: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        setting = " ".join(filter(None, (line[axis] for axis in AXES)))
        of_setting.setdefault(setting, []).append(line)
    for setting, of in of_setting.items():
        sides = [by_round(of, name) for name in MEASURED]
        yield f"| {setting} | {' | '.join(ratio(*both) for both in sides)} |"
    if len(of_setting) > 1:
        means = []
        for name in MEASURED:
            found = [by_round(of, name) for of in of_setting.values()]
            both = ([side[i] for side in found] for i in range(2))
            means.append(
                ratio(*({n: geometric_mean(s[n] for s in of) for n in of[0]} for of in both))
            )
        yield f"| mean of all | {' | '.join(means)} |"


def by_round(lines: list[dict[str, str]], name: str) -> tuple[dict[int, float], dict[int, float]]:
    """Values of a column by round, on this side and on the other."""
    this, other = (
        {int(line["round"]): float(line[name]) for line in lines if line["side"] == side}
        for side in ("this", "other")
    )
    return this, other


def ratio(this: dict[int, float], other: dict[int, float]) -> str:
    """The ratio this / other over rounds, with its interval."""
    found = paired_ratio(this, other)
    ends = found.ends() if found is not None else None
    return f"{found.value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})" if found and ends else ""


if __name__ == "__main__":
    main()
