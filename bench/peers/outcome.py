"""Run a comparison, print its results and write the requested files."""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from bench.common.csvfile import write_csv
from bench.common.errors import DiskFullError, StoppedError
from bench.common.progress import progress_bar
from bench.launch.signals import Signals
from bench.peers.names import PAGES, versions
from bench.peers.rows import (
    STEP_COLUMNS,
    WHOLE_COLUMNS,
    Attempt,
    curves,
    operators,
    problems,
    step_rows,
    whole_rows,
)
from bench.peers.runs_file import RunsFile
from bench.peers.session import Comparison, StartError
from bench.report.show import as_json as to_json
from bench.report.show import print_tables
from minbert.data.tasks import TaskData

_INTERRUPTED: Final = 130


def compare(
    comparison: Comparison,
    examples: TaskData,
    *,
    runs: Path | None = None,
    csv_file: Path | None = None,
    as_json: bool = False,
    reports: Path | None = None,
) -> int:
    """Run a comparison's missing processes, print and write its results; returns the exit code.

    Args:
        runs: the file of earlier results.

    Raises:
        InputError: if that file can't be used.
    """
    runs_file = RunsFile(runs, comparison, versions())
    attempts = runs_file.attempts(comparison.sides)
    missing = sum(1 for _ in comparison.turns(attempts))
    new_pooler = stopped = False
    try:
        with (
            Signals() as signals,
            tempfile.TemporaryDirectory(prefix="bench-peers-") as name,
            progress_bar(1 + missing) as on_process,
        ):
            on_process(0, "initial weights")
            new_pooler = comparison.prepare(Path(name), examples, signals)
            for attempt in comparison.attempts(
                Path(name), new_pooler, tuple(attempts), signals, on_process
            ):
                runs_file.add(attempt)
                attempts.append(attempt)
    except StoppedError:
        stopped = True
    except (StartError, DiskFullError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    code = 0
    if attempts:
        code = _publish(
            comparison,
            examples,
            new_pooler,
            attempts,
            runs_file.code_versions(),
            csv_file,
            as_json,
            reports,
        )
    if stopped:
        sys.stderr.write("stopped: only the results until then are shown\n")
    return _INTERRUPTED if stopped else code


def _publish(
    comparison: Comparison,
    examples: TaskData,
    new_pooler: bool,
    attempts: Sequence[Attempt],
    code_versions: Sequence[str],
    csv_file: Path | None,
    as_json: bool,
    reports: Path | None,
) -> int:
    from bench.peers import tables  # loads pandas, so only after the processes have run

    order = [(cell.name, side) for cell in comparison.cells for side in comparison.sides]
    attempts = sorted(attempts, key=lambda attempt: order.index((attempt.cell.name, attempt.side)))
    config, outputs = comparison.model.config, examples.task.num_outputs
    whole = comparison.whole
    rows = whole_rows(attempts) if whole else step_rows(attempts, config, outputs, new_pooler)
    errors = problems(rows)
    description = tables.description(
        comparison.cells,
        comparison.sides,
        comparison.conditions,
        {"this project": ", ".join(code_versions), **versions()},
        rows,
    )
    description += [] if whole else [tables.tolerances(rows)]
    results = tables.whole_tables(rows) if whole else tables.step_tables(rows)
    findings = tables.findings(rows)
    losses, operator_times = curves(attempts), operators(attempts)
    if csv_file is not None:
        write_csv(csv_file, WHOLE_COLUMNS if whole else STEP_COLUMNS, rows)
    if as_json:
        more = {
            "compared": description,
            "problems": errors,
            "losses": losses,
            "operators": operator_times,
        }
        click.echo(to_json(rows, more))
    else:
        print_tables(results, [*description, *findings])
    if reports is not None:
        from bench.peers.page import drawings
        from bench.report.pages import Facts, sections_of, write_pages
        from bench.report.text import plain, without_paths

        arguments = ["python", "-m", "bench.peers", *map(plain, sys.argv[1:])]
        title = f"{comparison.model.name} on {examples.task.name}: ours and transformers + PEFT"
        facts = Facts(
            title=title,
            findings=findings,
            sections=sections_of(
                problems=errors,
                tables=[*results, *tables.operator_tables(operator_times)],
                drawings=drawings(rows, losses, whole),
            ),
            how="What was compared",
            said=description,
            command=without_paths(shlex.join(arguments)),
        )
        path = write_pages(reports, PAGES, facts)
        sys.stderr.write(f"report: {path}\n")
    for error in errors:
        sys.stderr.write(f"error: {error}\n")
    return 1 if errors else 0
