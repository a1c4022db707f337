"""Check folders of results that somebody submits: whether all that their files say agrees.

Exit codes: 0 all folders are valid, 1 one is not, 2 bad input.

Examples:
  python -m bench.validate results
  python -m bench.validate submitted/* --reports reports
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bench.common.command import FILE, described, options_in, run_command
from bench.common.files import below, write_atomically
from bench.common.messages import command_line, echo
from bench.common.progress import progress_bar


@described(__doc__)
@click.argument("folders", nargs=-1, required=True, type=FILE, metavar="FOLDER...")
@options_in(__file__, "validate.toml")
def main(folders: Sequence[Path], reports: Path | None, peft: Path | None, as_json: bool) -> int:
    from bench.report.text import count
    from bench.results.rescoring import read_results
    from bench.results.submission import Submission

    checked = []
    with progress_bar(len(folders)) as show:
        for number, folder in enumerate(folders):
            show(number, str(folder))
            checked.append(Submission.check(folder))
    if as_json:
        echo(json.dumps([each.columns() for each in checked], indent=1))
    for each in () if as_json else checked:
        verdict = f"not valid, {count(len(each.problems), 'problem')}" if each.problems else "valid"
        echo("\n".join([*each.problems, f"{each.folder}: {each.rows} rows, {verdict}"]))
        for what, rows in (+each.unchecked).items():
            echo(f"  not checked in {rows} rows: {what}")
    valid = [path for each in checked if not each.problems for path in each.runs]
    if valid and (reports or peft):
        from bench.report.pages import write_pages
        from bench.report.submissions import peft_layout, side_by_side

        results = read_results(valid, None)
        notes = [
            f"{each.folder.name} is not valid and left out." for each in checked if each.problems
        ]
        if reports:
            command = command_line("validate", *sys.argv[1:])
            page = write_pages(reports, "results", side_by_side(results, notes, command))
            echo(f"report: {page}", err=True)
        for names, content in peft_layout(results) if peft else ():
            path = below(peft or Path(), *names)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")
    return int(any(each.problems for each in checked))


if __name__ == "__main__":
    run_command(main)
