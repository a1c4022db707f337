"""Runs a reference cell on each node, to find nodes that are slower or faster than others of their
kind. Its rows are no results: they are in `runs/slurm/nodes/`, and what was compared in
`nodes.json` beside it."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import sleep
from typing import Final

from bench.common.errors import InputError, StoppedError
from bench.common.files import write_atomically
from bench.common.grouping import grouped
from bench.executors.slurm import commands
from bench.executors.slurm.following import Following, Submitter
from bench.executors.slurm.submission import submissions_folder
from bench.launch.attempt import Attempt
from bench.launch.signals import Signals
from bench.plan.rows import Row
from bench.report.text import sentences

TOLERANCE: Final = 0.05
"""A node deviates if its whole interval is more than this share above or below those of others, by
the medians of their ends."""
_DOWN: Final = ("down", "drain", "fail", "maint", "power", "unk", "reboot")
"""The beginnings of states in which a node takes no jobs."""
_MISFIT: Final = "node configuration"
"""Part of Slurm's error where a node has not what a job asks for."""


@dataclass(frozen=True)
class Node:
    """A node, and its time for 1,000 tokens of the reference cell, with the interval's ends, in ms.
    `problem` is the reason why there is none. `deviation` is the share by which it is slower than
    the median of the others of its kind, negative if it is faster; None if it does not deviate."""

    name: str
    conditions_id: str = ""
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    problem: str = ""
    deviation: float | None = None


def check_nodes(
    submitter: Submitter, run: Attempt, note: Callable[[str], None], signals: Signals, poll_s: float
) -> list[Node]:
    """Run a cell once on each node of the partition that takes jobs, and compare the nodes. `note`
    shows a line of text. InputError if the partition has no such node, or Slurm refuses a job on
    each; StoppedError if the user stops it. After any error its jobs are cancelled."""
    nodes = _nodes(submitter)
    if "exclusive" not in submitter.request.options:
        note("--check-nodes without exclusive in --slurm: other jobs may slow nodes down meanwhile")
    folder = submissions_folder(submitter.runs)
    following: dict[str, Following] = {}
    rows: dict[str, Row | str] = {}
    refused = ""
    try:
        for name in nodes:
            if signals.stops:
                raise StoppedError
            options = {**submitter.request.options, "nodelist": name}
            pinned = replace(
                submitter,
                runs=folder / "nodes" / f"{name}.csv",
                request=replace(submitter.request, options=options),
            )
            try:
                following[name] = Following(pinned.submit([[run]]))
            except commands.SlurmError as error:
                if _MISFIT not in str(error):
                    raise
                refused = f"{name} is not checked: {error}"
                note(refused)
        if not following:
            raise InputError(f"--check-nodes: {refused}")
        note(f"{run.name} runs once on each of {len(following)} nodes")
        while following:
            with signals.raising():
                sleep(poll_s)
            _collect(following, rows)
    except BaseException:
        with suppress(commands.SlurmError):
            commands.cancel(*(str(one.submission.job) for one in following.values()))
        raise
    compared = compare([_measured(name, rows[name]) for name in nodes if name in rows])
    text = json.dumps([asdict(node) for node in compared], indent=1) + "\n"
    write_atomically(folder / "nodes.json", text.encode())
    return compared


def _nodes(submitter: Submitter) -> list[str]:
    options = submitter.request.options
    states = {
        name: state
        for partition in submitter.request.partition.split(",")
        for name, state in commands.nodes_of(partition).items()
    }
    named = commands.hostnames(options.get("nodelist") or "")
    excluded = commands.hostnames(options.get("exclude") or "")
    names = [
        name
        for name, state in states.items()
        if not state.startswith(_DOWN) and name not in excluded and (not named or name in named)
    ]
    if not names:
        raise InputError("--check-nodes: no node takes jobs; sinfo shows their states")
    return names


def _collect(following: dict[str, Following], rows: dict[str, Row | str]) -> None:
    """Take the rows of jobs that have ended, or the reasons why there are none."""
    try:
        queued = commands.queued([one.submission.name for one in following.values()])
    except commands.SlurmError:
        return  # it is asked again
    running = {entry.name for entry in queued}
    for name, one in list(following.items()):
        one.read({0} if one.submission.name in running else set[int]())
        taken = [every[-1] for _, every in one.take()]
        if not one.open:
            rows[name] = taken[-1] if taken else one.not_run.get(0, ("", ""))[0]
            del following[name]


def _measured(name: str, row: Row | str) -> Node:
    if isinstance(row, str):
        return Node(name, problem=f"it never began: {row}")
    if not row.is_ok:
        return Node(name, row.conditions_id, problem=f"{row.status}: {row.message or ''}")
    ends = row.ms_per_1k_tokens_ci_low, row.ms_per_1k_tokens_ci_high
    return Node(name, row.conditions_id, row.ms_per_1k_tokens, *ends)


def compare(nodes: Sequence[Node]) -> list[Node]:
    """The same nodes, with the deviation of each from the others of its kind."""
    kinds = grouped(nodes, lambda node: node.conditions_id)
    return [replace(node, deviation=_deviation(node, kinds[node.conditions_id])) for node in nodes]


def _deviation(node: Node, kind: Sequence[Node]) -> float | None:
    others = [other for other in kind if other is not node and other.ms is not None]
    if node.ms is None or not others:
        return None
    low, high = _ends(node)
    lows, highs = zip(*map(_ends, others), strict=True)
    deviates = low > (1 + TOLERANCE) * median(highs) or high * (1 + TOLERANCE) < median(lows)
    return node.ms / median(other.ms or 0.0 for other in others) - 1 if deviates else None


def _ends(node: Node) -> tuple[float, float]:
    ms = node.ms or 0.0
    return (ms if node.low is None else node.low), (ms if node.high is None else node.high)


def lines(nodes: Sequence[Node]) -> list[str]:
    """A line for each node, by kind, and how those that fail or are slower are left out."""
    worse = [node.name for node in nodes if node.problem or (node.deviation or 0.0) > 0]
    return sentences("nodes", nodes=nodes, worse=worse)
