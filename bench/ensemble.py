"""An ensemble of cells that have run, chosen on held-out training examples and scored on dev.

Examples:
  python -m bench.ensemble --runs runs.csv
  python -m bench.ensemble --runs runs.csv --task sst --average logits --json
  python -m bench.ensemble --runs runs.csv --task sst --baselines --data path/to/data
  python -m bench.ensemble --runs sst.csv quora.csv sts.csv --task sst,quora,sts
  python -m bench.ensemble --runs runs.csv --csv ensemble.csv --reports reports/
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from bench.common.command import described, options_in, run_command, with_runs
from bench.common.errors import InputError
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES
from bench.plan.models import engine_version
from bench.studies.ensemble.baselines import with_baselines, with_transformers
from bench.studies.ensemble.members import find
from bench.studies.ensemble.result import AVERAGES, as_json, csv_rows, ensemble_of, overall_of
from bench.studies.outputs import Study, with_outputs


@described(__doc__)
@with_runs("Results files whose cells can be members, one or several.")
@options_in(__file__, "ensemble.toml", {"average": click.Choice(AVERAGES)})
@with_outputs("ensemble", "each score, single cells included")
def command(
    runs: Sequence[Path], task: str | None, average: str, most: int, baselines: bool, peer: bool,
    data: Path | None,
) -> Study:  # fmt: skip
    if data is not None and not (baselines or peer):
        raise InputError(
            "--data: is for --baselines and --peer; members are taken from --runs alone"
        )
    if peer:
        engine_version()  # refuses missing libraries
    asked = tuple(dict.fromkeys(filter(None, map(str.strip, (task or "").split(",")))))
    if task is not None and not asked:
        raise InputError("--task: names no task; name one, or several with commas between")
    results = [ensemble_of(pool, average, most) for pool in find(runs, asked)]
    present = [result.task for result in results]
    tasks = dict.fromkeys([*(PART_SCORES if MULTITASK in asked else ()), *asked])
    lacking = [each for each in tasks if each not in (MULTITASK, *present)]
    if lacking and overall_of(results) is None:
        note = f"no cells of {', '.join(lacking)}"
        if {*lacking, *present} <= PART_SCORES.keys():
            note += ", so there is no overall score"
        results[0] = results[0].with_notes(note)
    if baselines:
        results = [with_baselines(result, data) for result in results]
    if peer:
        results = with_transformers(results, runs[0], data)
    together = [overall] if (overall := overall_of(results)) else []

    from bench.studies.ensemble import page  # loads pandas and matplotlib

    return Study(
        rows=csv_rows([*results, *together]),
        to_json=lambda: as_json(results, overall),
        show=partial(page.print_sections, [*together, *results]),
        facts=partial(page.facts_of, [*together, *results]),
        problems=[problem for result in results for problem in result.problems],
    )


if __name__ == "__main__":
    run_command(command)
