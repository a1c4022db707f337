"""Continuing a run that was stopped: the results it left, and the command that continues it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bench.common.messages import command_line
from bench.plan.budget import Budget, minutes
from bench.plan.planning import RERUN, Planned
from bench.plan.rows import BUSY, Row
from bench.report.text import sentences

LEFT_OUT: Final = "left out"
"""The status in counts of cells that were skipped because of a budget."""
_GO_ON: Final = ("not run", "interrupted", BUSY, LEFT_OUT)
"""Statuses of cells that run if the same command is given again."""


def how_to_go_on(
    arguments: Sequence[str],
    counts: Mapping[str, int] | None = None,
    *,
    fell_back: int = 0,
    budget: Budget | None = None,
) -> list[str]:
    """Lines with the commands that run what has not run, and what failed, by the arguments of the
    present command, counts of cells by status, `not run` and `LEFT_OUT` too (None if not counted),
    of those that have `fallen_back`, and the budget that cells were left out for."""
    failed = sorted((counts or {}).keys() - {"ok", *_GO_ON})
    rerun = (*_without_rerun(arguments), RERUN)
    return sentences(
        "go_on", budget=budget, minutes=minutes, fell_back=fell_back,
        goes_on=fell_back or counts is None or any(map(counts.get, _GO_ON)),
        again=command_line("grid", *arguments),
        reruns={status: command_line("grid", *rerun, status) for status in failed},
    )  # fmt: skip


def _without_rerun(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for argument in arguments:
        if kept and kept[-1] == RERUN:
            kept.pop()
        elif not argument.startswith(f"{RERUN}="):
            kept.append(argument)
    return kept


def to_run_again(
    counts: Mapping[str, int], planned: Sequence[Planned], left_out: int = 0
) -> Counter[str]:
    """Counts of statuses for `how_to_go_on`. Cells for which a search found no learning rate count
    by the statuses of its candidates, since these have to run again. `left_out` is the number of
    skipped cells that were left out because of a budget."""
    without_rates = [item for item in planned if item.tries]
    result = Counter(counts)
    result["skipped"] -= len(without_rates) + left_out
    result[LEFT_OUT] += left_out
    result.update(status for item in without_rates for status in item.tries)
    return +result


def statuses(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> Counter[str]:
    """The number of cells of a plan by status, or `not run`."""
    by_key = {item.key: item.elsewhere for item in planned}
    return Counter(
        "ok" if elsewhere else str(last[key]["status"]) if key in last else "not run"
        for key, elsewhere in by_key.items()
    )


def fallen_back(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> int:
    """The number of cells that ran again and failed, so that their older result counts. `last` is
    the row that counts for each cell, by `Planned.key`."""
    return sum(
        last[item.key]["status"] == "ok" and int(last[item.key]["attempt"] or 0) < item.attempt
        for item in planned
        if item.action == "run" and item.key in last
    )
