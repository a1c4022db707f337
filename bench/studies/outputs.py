"""The options of a study's command that say where its results go, and their output."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.command import Command, options_in
from bench.common.csvfile import check_csv, write_csv
from bench.common.messages import echo, finite
from bench.launch.checks import check_reports

if TYPE_CHECKING:
    from bench.report.pages import Facts


@dataclass(frozen=True)
class Study:
    """The results of a study: rows of its CSV, which all have its columns, functions that make
    values for JSON of them, print them as text, and make the content of their pages by a command
    line, and failures, a line each."""

    rows: Sequence[Mapping[str, Any]]
    to_json: Callable[[], Any]
    show: Callable[[], None]
    facts: Callable[[str], "Facts"]
    problems: Sequence[str]


def with_outputs(name: str, rows: str) -> Callable[[Callable[..., Study]], Command]:
    """Give a command that returns a study `--csv`, `--json` and `--reports`, and write the study
    there, with pages of a name and rows as the help names them; files and folders that can't be
    written are refused first."""

    def decorate(function: Callable[..., Study]) -> Command:
        @options_in(__file__, "outputs.toml", name=name, rows=rows)
        @wraps(function)
        def command(
            runs: Sequence[Path], csv_file: Path | None, as_json: bool, reports: Path | None,
            **others: Any,
        ) -> int:  # fmt: skip
            if csv_file is not None:
                check_csv(csv_file, runs)
            if reports is not None:
                check_reports(reports, name)
            study = function(runs=runs, **others)
            if as_json:
                echo(json.dumps(finite(study.to_json()), indent=2, allow_nan=False))
            else:
                study.show()
            if csv_file is not None:
                write_csv(csv_file, [*study.rows[0]], study.rows)
            try:
                if reports is not None:
                    from bench.report.pages import called, write_pages

                    page = write_pages(reports, name, study.facts(called(name)))
                    echo(f"report: {page}", err=True)
            finally:
                for problem in study.problems:
                    echo(f"error: {problem}", err=True)
            return 1 if study.problems else 0

        return command

    return decorate
