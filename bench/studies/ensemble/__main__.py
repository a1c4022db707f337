"""An ensemble of cells that have run, chosen on training data that was held out, scored on dev.

Example: python -m bench.ensemble --runs runs.csv --task movies
"""

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from bench.common.command import run_command, with_runs
from bench.common.csvfile import check_csv, write_csv
from bench.common.errors import InputError
from bench.launch.checks import check_reports
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES
from bench.studies.ensemble.averages import AVERAGES
from bench.studies.ensemble.beside import with_baselines, with_peers
from bench.studies.ensemble.members import find
from bench.studies.ensemble.outcome import ensemble_of
from bench.studies.ensemble.rows import COLUMNS, csv_rows
from bench.studies.ensemble.show import Printer, outcomes_as_json
from bench.studies.ensemble.together import together

_MOST: Final = 25
_PAGES: Final = "ensemble"
"""The name of the pages and of the folder of their figures."""
_EPILOG: Final = """\b
Examples:
  python -m bench.ensemble --runs runs.csv
  python -m bench.ensemble --runs runs.csv --task sst --average logits --json
  python -m bench.ensemble --runs runs.csv --task sst --baselines --data path/to/data
  python -m bench.ensemble --runs sst.csv quora.csv sts.csv --task sst,quora,sts
  python -m bench.ensemble --runs runs.csv --csv ensemble.csv --reports reports/
"""


@click.command("python -m bench.ensemble", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@with_runs("Results whose cells are members, of one or several files.")
@click.option(
    "--task",
    metavar="NAME[,NAME]",
    help="Which of the tasks in it; multitask for sst, quora and sts, which have an overall score.",
)
@click.option("--average", type=click.Choice(AVERAGES), default="probabilities", show_default=True)
@click.option(
    "--most", type=click.IntRange(1, 1000), default=_MOST, show_default=True,
    help="Members at most, each as often as it counts.",
)  # fmt: skip
@click.option(
    "--baselines", is_flag=True,
    help="Also score the average of all cells, TF-IDF with a linear model, for pairs the cosine of "
    "embeddings, and the best member of each other encoder; show published scores.",
)  # fmt: skip
@click.option(
    "--peer", is_flag=True,
    help="Also train the best member's setting, or the best that they can, by transformers and "
    "PEFT, here and now.",
)  # fmt: skip
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="With --baselines or --peer: the folder of the tasks' files.",
)
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path),
    help="Write a row for each that is scored there, cells alone among them.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--reports", type=click.Path(path_type=Path), help="Write ensemble.md and ensemble.html there."
)
def command(
    runs: Sequence[Path],
    task: str | None,
    average: str,
    most: int,
    baselines: bool,
    peer: bool,
    data: Path | None,
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
) -> int:
    if data is not None and not (baselines or peer):
        raise InputError(
            "--data: is for --baselines and --peer; members are taken from --runs alone"
        )
    if csv_file is not None:
        check_csv(csv_file, runs)
    if reports is not None:
        check_reports(reports, _PAGES)
    if peer:
        from bench.peers.names import check_libraries

        check_libraries()
    asked = parse_tasks(task)
    outcomes = [ensemble_of(of, average, most) for of in find(runs, asked)]
    lacking = missing(asked, [of.candidates.task for of in outcomes])
    if lacking and together(outcomes) is None:
        tasks = {*lacking, *(of.candidates.task for of in outcomes)}
        so = ", so there is no overall score" if tasks <= PART_SCORES.keys() else ""
        note = f"no cells of {', '.join(lacking)}{so}"
        outcomes[0] = replace(outcomes[0], notes=(*outcomes[0].notes, note))
    if baselines:
        outcomes = [with_baselines(of, data) for of in outcomes]
    if peer:
        outcomes = with_peers(outcomes, data)
    overall = together(outcomes)
    if as_json:
        click.echo(json.dumps(outcomes_as_json(outcomes, overall, beside=baselines), indent=2))
    else:
        printer = Printer(beside=baselines)
        for outcome in outcomes:
            printer.task(outcome)
        if overall is not None:
            printer.together(overall)
    if csv_file is not None:
        write_csv(csv_file, COLUMNS, csv_rows(outcomes, overall))
    if reports is not None:
        from bench.report.pages import write_pages
        from bench.studies.ensemble.page import (
            facts_of,  # not before: it loads pandas and matplotlib
        )

        flags = [name for name, on in (("--baselines", baselines), ("--peer", peer)) if on]
        words = [
            *("python", "-m", "bench.ensemble", "--runs", *map(str, runs)),
            *(("--task", ",".join(asked)) if asked else ()),
            *("--average", average, "--most", str(most), *flags),
            *(("--data", str(data)) if data is not None else ()),
            *("--reports", "reports/"),
        ]
        facts = facts_of(outcomes, overall, words, beside=baselines)
        sys.stderr.write(f"report: {write_pages(reports, _PAGES, facts)}\n")
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if problems else 0


def parse_tasks(text: str | None) -> tuple[str, ...]:
    """`"sst,quora"` as tasks, each once; none where nothing is asked.

    Raises:
        InputError: for a text that names none.
    """
    if text is None:
        return ()
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not names:
        raise InputError("--task: names no task; name one, or several with commas between")
    return names


def missing(asked: Collection[str], found: Collection[str]) -> list[str]:
    """Tasks that were asked for and are not found; `multitask` asks for all of its parts."""
    wanted = [*(PART_SCORES if MULTITASK in asked else ()), *asked]
    return [task for task in dict.fromkeys(wanted) if task not in (MULTITASK, *found)]


if __name__ == "__main__":
    run_command(command)
