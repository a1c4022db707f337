"""Recommend a setting from finished runs: the cheapest that is shown to be no worse than the best.

Exit codes: 0 decided, 1 undecided, 2 bad input.

Examples:
  python -m bench.recommend
  python -m bench.recommend --prefer time --margin 1pt
  python -m bench.recommend --where "memory<=6GiB time<=30min score>=0.60 size<=5MB parameters<=1M"
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bench.analysis.costs import EXAMPLE, NEEDS, Need
from bench.common.command import described, options_in, run_command, with_runs
from bench.common.messages import echo
from bench.plan.metrics import METRIC_HELP, METRICS

with_needs = options_in(
    __file__,
    "recommend.toml",
    {"metric": click.Choice(list(METRICS)), "need": click.Choice(NEEDS)},
    metric_help=METRIC_HELP,
    example=EXAMPLE,
)
"""Gives a command the options `--prefer`, `--where`, `--margin` and `--metric`."""


@described(__doc__)
@with_runs("Results to recommend from.")
@with_needs
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def main(
    runs: Sequence[Path], prefer: Need, where: str, margin: str | None, metric: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    from bench.analysis.recommendation import recommended_in
    from bench.report import recommendation
    from bench.report.text import count
    from bench.results.rescoring import read_results

    results = read_results(runs, metric)
    recommended, others = recommended_in(results, prefer, where, margin)
    advice = recommendation.advice(
        recommended, results.facts, results.exports, [str(path) for path in runs]
    )
    if as_json:
        echo(json.dumps(recommendation.as_json(advice), indent=1))
    else:
        echo("\n".join(recommendation.lines(advice)))
        if others:
            subject = recommendation.subject(recommended.candidates.group)
            more = count(others, "other group")
            echo(f"This is for {subject}; the report has {more} of results.")
    return 0 if recommended.decided else 1


if __name__ == "__main__":
    run_command(main)
