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
from typing import TYPE_CHECKING

import click

from bench.analysis.costs import EXAMPLE, NEEDS, Need
from bench.common.command import described, options_in, run_command, with_runs
from bench.common.messages import echo
from bench.plan.metrics import METRIC_HELP, METRICS

if TYPE_CHECKING:
    from bench.analysis.recommendation import Recommendation
    from bench.results.rescoring import Results


with_needs = options_in(
    Path(__file__).with_name("recommend.toml"),
    {"metric": click.Choice(list(METRICS)), "need": click.Choice(NEEDS)},
    metric_help=METRIC_HELP,
    example=EXAMPLE,
)
"""Gives a command the options `--prefer`, `--where`, `--margin` and `--metric`."""


def recommended_in(
    results: "Results", prefer: Need, where: str, margin: str | None
) -> "tuple[Recommendation, int]":
    """The recommendation for the first group of results and the encoders that are compared with
    that one's, and the number of other groups; the other arguments are as the options. InputError
    if there are no results, and for limits that are none."""
    from bench.analysis.costs import parse_margin, parse_where
    from bench.analysis.groups import encoders_of, ordered_groups
    from bench.analysis.recommendation import candidates_of, recommend
    from bench.common.errors import InputError

    limits = parse_where(where)
    every = ordered_groups(results.rows, results.planned, results.values_of)
    if not every:
        names = ", ".join(map(str, results.runs))
        raise InputError(f"{names}: no results; run python -m bench.grid --grid smoke")
    group = encoders_of(every) or every[0]
    others = len(every) - max(1, len(group.encoders))
    base = group.baseline.mean("dev_score") if group.baseline else None
    size = None if margin is None else parse_margin(margin, group.scoring, base)
    return recommend(candidates_of(group, size), prefer, limits), others


@described(__doc__)
@with_runs("Results to recommend from.")
@with_needs
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def main(
    runs: Sequence[Path], prefer: Need, where: str, margin: str | None, metric: str | None,
    as_json: bool,
) -> int:  # fmt: skip
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
