"""Step times of this checkout against those of another one, cell by cell in turn.

Example: python -m tests.benchmarks.alternate ../before --rounds 8 --csv docs/steps.csv

Each round runs the grid once in either checkout, the other one first in every second round, each
cell in a process of its own. Nothing else should run on the machine. Prints, for each setting, the
geometric mean over rounds of the ratio this / other of the time for 1,000 tokens and of peak
memory, with a 95% interval by Student's t.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

from bench.stats import paired_ratio

ROOT: Final = Path(__file__).parents[2]
AXES: Final = ("mode", "rank", "layers", "amp")
MEASURED: Final = ("ms_per_1k_tokens", "peak_rss_mib")


@click.command(help=__doc__)
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--grid", type=click.Path(path_type=Path), default=ROOT / "docs" / "steps.toml")
@click.option("--rounds", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--csv", "out", type=click.Path(path_type=Path), help="Where the measurements go.")
def main(other: Path, grid: Path, rounds: int, out: Path | None) -> None:
    lines: list[dict[str, str]] = []
    sides = {"this": ROOT, "other": other.resolve()}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            click.echo(f"round {number + 1} of {rounds}: {side}", err=True)
            rows = run(sides[side], grid.resolve())
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
                *(sys.executable, "-m", "bench.grid", "--grid", str(grid)),
                *("--runs", str(runs), "--reports", str(Path(place) / "reports")),
            ],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with runs.open(newline="", encoding="utf-8") as file:
            names = ("code_version", *AXES, "flags", *MEASURED)
            return [{name: row[name] for name in names} for row in csv.DictReader(file)]


def table(lines: list[dict[str, str]]) -> Iterator[str]:
    """Lines of Markdown, a setting each."""
    yield "| setting | time, this / other | peak memory, this / other |"
    yield "|---|---|---|"
    for setting in dict.fromkeys(tuple(line[axis] for axis in AXES) for line in lines):
        of = [line for line in lines if tuple(line[axis] for axis in AXES) == setting]
        ratios = []
        for name in MEASURED:
            sides = [
                {int(line["round"]): float(line[name]) for line in of if line["side"] == side}
                for side in ("this", "other")
            ]
            ratio = paired_ratio(*sides)
            ends = ratio.ends() if ratio is not None else None
            ratios.append(
                f"{ratio.value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})" if ratio and ends else ""
            )
        yield f"| {' '.join(filter(None, setting))} | {' | '.join(ratios)} |"


if __name__ == "__main__":
    main()
