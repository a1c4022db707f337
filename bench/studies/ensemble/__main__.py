"""An ensemble of cells that have run, chosen on held-out training examples and scored on dev.

Example: python -m bench.ensemble --runs runs.csv --task movies
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import click

from bench.common.command import run_command, with_runs
from bench.common.csvfile import write_csv
from bench.common.errors import InputError
from bench.common.messages import echo
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES
from bench.plan.models import engine_version
from bench.studies.ensemble import rows
from bench.studies.ensemble.averages import AVERAGES
from bench.studies.ensemble.baselines import with_baselines
from bench.studies.ensemble.members import find
from bench.studies.ensemble.outcome import ensemble_of, overall_of
from bench.studies.outputs import command_line, with_outputs

_MOST: Final = 25
_PAGES: Final = "ensemble"
"""Name of the pages and of the folder of their figures."""
_EPILOG: Final = """\b
Examples:
  python -m bench.ensemble --runs runs.csv
  python -m bench.ensemble --runs runs.csv --task sst --average logits --json
  python -m bench.ensemble --runs runs.csv --task sst --baselines --data path/to/data
  python -m bench.ensemble --runs sst.csv quora.csv sts.csv --task sst,quora,sts
  python -m bench.ensemble --runs runs.csv --csv ensemble.csv --reports reports/
"""


@click.command(help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@with_runs("Results files whose cells can be members, one or several.")
@click.option(
    "--task",
    metavar="NAME[,NAME]",
    help="Tasks to choose ensembles for; multitask: sst, quora and sts with their overall score.",
)
@click.option(
    "--average", type=click.Choice(AVERAGES), default="probabilities", show_default=True,
    help="What to average.",
)  # fmt: skip
@click.option(
    "--most", type=click.IntRange(1, 1000), default=_MOST, show_default=True,
    help="Largest number of members; a member that was added twice counts twice.",
)  # fmt: skip
@click.option(
    "--baselines", is_flag=True,
    help="Also score the average of all cells, the best member of each other encoder, TF-IDF with "
    "a linear model and, for pairs of texts, the cosine of embeddings; show published scores.",
)  # fmt: skip
@click.option(
    "--peer", is_flag=True,
    help="Also train the best member's setting now with transformers and PEFT; if they can't, the "
    "best one that they can.",
)  # fmt: skip
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the tasks' files, for --baselines and --peer.",
)
@with_outputs(_PAGES, "each score, single cells included")
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
    if peer:
        engine_version()  # refuses missing libraries
    asked = parse_tasks(task)
    outcomes = [ensemble_of(candidates, average, most) for candidates in find(runs, asked)]
    present = [outcome.task for outcome in outcomes]
    lacking = missing(asked, present)
    if lacking and overall_of(outcomes) is None:
        note = f"no cells of {', '.join(lacking)}"
        if {*lacking, *present} <= PART_SCORES.keys():
            note += ", so there is no overall score"
        outcomes[0] = outcomes[0].with_notes(note)
    if baselines:
        outcomes = [with_baselines(outcome, data) for outcome in outcomes]
    if peer:
        from bench.studies.ensemble.baseline import with_transformers

        outcomes = with_transformers(outcomes, runs[0], data)
    overall = overall_of(outcomes)
    if as_json:
        results = rows.as_json(outcomes, overall, with_published=baselines)
        echo(json.dumps(results, indent=2))
    else:
        from bench.studies.ensemble.page import print_sections  # loads pandas and matplotlib

        print_sections(outcomes, overall, with_published=baselines)
    if csv_file is not None:
        write_csv(csv_file, rows.COLUMNS, rows.csv_rows(outcomes, overall))
    if reports is not None:
        from bench.report.pages import write_pages
        from bench.studies.ensemble.page import facts_of

        line = command_line(_PAGES)
        facts = facts_of(outcomes, overall, line, with_published=baselines)
        echo(f"report: {write_pages(reports, _PAGES, facts)}", err=True)
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    for problem in problems:
        echo(f"error: {problem}", err=True)
    return 1 if problems else 0


def parse_tasks(text: str | None) -> tuple[str, ...]:
    """The distinct tasks in a text such as `"sst,quora"`; none for None.

    Raises:
        InputError: for a text without a task.
    """
    if text is None:
        return ()
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not names:
        raise InputError("--task: names no task; name one, or several with commas between")
    return names


def missing(asked: Collection[str], present: Collection[str]) -> list[str]:
    """Tasks in `asked` that have no cells; `multitask` stands for all of its parts."""
    tasks = dict.fromkeys([*(PART_SCORES if MULTITASK in asked else ()), *asked])
    return [task for task in tasks if task not in (MULTITASK, *present)]


if __name__ == "__main__":
    run_command(command)
