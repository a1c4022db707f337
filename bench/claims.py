"""Judge the hypotheses of a claims file by rows: supported, refuted or undecided.

Exit codes: 0 all primary claims are decided, 1 one is not, 2 bad input.

Examples:
  python -m bench.claims
  python -m bench.claims --claims mine.toml --runs mine.csv --json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from bench.common.command import FILE, described, run_command
from bench.common.messages import echo

_RUNS: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@described(__doc__)
@click.option("--claims", "path", type=FILE, default="docs/claims.toml", show_default=True)
@click.option("--runs", multiple=True, type=_RUNS, help="Results in place of those it names.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
def main(path: Path, runs: Sequence[Path], as_json: bool) -> int:
    from bench.analysis.claims import Verdict, judge_file
    from bench.report.claims import lines, to_json

    judged = judge_file(path, runs)
    echo(json.dumps(to_json(judged), indent=1) if as_json else "\n".join(lines(judged)))
    return int(any(j.claim.primary and j.verdict is Verdict.UNDECIDED for j in judged))


if __name__ == "__main__":
    run_command(main)
