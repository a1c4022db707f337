"""Render the report again from runs.csv, without running anything.

Examples:
  python -m bench.report
  python -m bench.report --runs laptop.csv server.csv --reports reports/
  python -m bench.report --metric macro_f1
  python -m bench.report --history --runs history.csv
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.common.command import described, options_in, reports_for, run_command, with_runs
from bench.common.errors import InputError
from bench.common.messages import command_line, echo
from bench.plan.metrics import METRIC_HELP, METRICS
from bench.plan.rows import Row


@described(__doc__)
@with_runs("Results to show; several files are shown together.")
@options_in(
    __file__, "options.toml", {"metric": click.Choice(list(METRICS))}, metric_help=METRIC_HELP
)
def main(
    runs: Sequence[Path], reports: Path | None, code_version: str | None, metric: str | None,
    final: bool, test: str | None, history: bool, as_json: bool,
) -> int:  # fmt: skip
    reports = reports or reports_for(runs[0])
    others = {"--final": final, "--test": test, "--code-version": code_version}
    for option in (name for name, value in others.items() if history and value):
        raise InputError(f"--history: does not go together with {option}")
    if test is not None and not final:
        raise InputError("--test: is for --final; give both")
    from bench.results.facts import read_facts
    from bench.results.rescoring import read_results

    results = read_results(runs, metric)
    if history:
        from bench.report.history import write_history  # imported late, as render below

        page, data = write_history(results.rows, reports, [str(path) for path in runs])
        lines = [*data["findings"], f"history: {page}"]
        echo(json.dumps(data | {"page": str(page)}) if as_json else "\n".join(lines))
        return 0
    lines, outcome = [], dict[str, Any]()
    if final:
        if len(runs) > 1:
            raise InputError("--final: takes the results of one file; name it with --runs")
        from bench.report.final import find_final
        from bench.report.references import final_line

        score = find_final(results, test)
        results = replace(results, facts=read_facts(*runs))
        lines, outcome = [final_line(score, metric or "")], {"final": score.model_dump(mode="json")}
    from bench.report.render import render  # imported late: it loads pandas and matplotlib

    index = render(results, reports, code_version=code_version)
    rows = [row for row in results.rows if code_version in (None, row.code_version)]
    if code_version is None and (compared := _comparison(runs, rows)) is not None:
        echo(f"note: {compared}", err=True)
    outcome = {"rows": len(rows), "report": str(index), **outcome}
    lines.append(f"{len(rows)} rows in {index}")
    echo(json.dumps(outcome) if as_json else "\n".join(lines))
    return 0


def _comparison(runs: Sequence[Path], rows: Sequence[Row]) -> str | None:
    """The command that compares several files, or the two newest of several versions of the code,
    which a report shows together."""
    by_time = sorted(rows, key=lambda row: row.started_at or "")
    newest = {row.code_version: row.started_at or "" for row in by_time}
    versions = sorted(newest, key=newest.__getitem__)[-2:]
    if len(runs) > 1:
        what, arguments = "files", [str(path) for path in (runs[0], runs[-1])]
    elif len(versions) > 1:
        what = "versions of the code"
        base, new = (f"code_version={shlex.quote(version)}" for version in versions)
        arguments = [str(runs[0]), "--base", base, "--new", new]
    else:
        return None
    command = command_line("compare", *arguments)
    return f"several {what} are shown together; what differs between them: {command}"


if __name__ == "__main__":
    run_command(main)
