"""The facts on a set of examples, and its reference points, which a process of its own finds."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.common.child import ChildError, LateError, ask
from bench.common.errors import InputError
from bench.common.messages import one_line
from bench.examples.checks import STEPS, check
from bench.examples.tokens import token_lengths
from bench.launch.runner import oom_kills
from bench.launch.signals import Signals
from bench.machine.environment import worker_environment
from bench.plan.cell import Cell
from bench.plan.job import Job
from bench.plan.metrics import DEFAULTS
from bench.results.facts import FROZEN, REFERENCES, DataFacts, Reference, facts_of, update_facts
from bench.results.protocol import PARENT_PID
from minbert.data.tasks import TaskData
from minbert.data.tokenizer import TextEncoder
from minbert.files import vocabulary_digest

PHASE: Final = "phase"
"""The key of an answer of the process that is no reference point, but the phase that begins."""
LONGEST_S: Final = 300.0
FACT_STEPS: Final = 1 + len(STEPS)  # the number of steps of `find_facts`
_OF_ENCODER: Final = ("model_digest", "pooling", "max_length", "window_stride")


def find_facts(
    data: TaskData,
    source: str,
    encoder: TextEncoder,
    tokens_of: str,
    longest: int,
    show: Callable[[int, str], None] = lambda _number, _name: None,
) -> DataFacts:
    """The facts on a task's examples, in tokens of a model with so many positions; `show` is called
    as each step begins, with its number and name."""
    show(0, "tokens")
    tokens = token_lengths(data.train, encoder), token_lengths(data.dev, encoder)
    checks = check(data, tokens, longest, lambda number, name: show(number + 1, name))
    facts = facts_of(data, source, checks)
    return facts.model_copy(update={"tokens_of": tokens_of})


def tokens_of(tokenizer: Path, longest: int) -> str:
    """`DataFacts.tokens_of` of a model; InputError for a vocabulary that can't be used."""
    return f"{vocabulary_digest(tokenizer)[:16]}, {longest}"


def find_references(
    runs: Path,
    data_digest: str,
    facts: DataFacts,
    planned: Sequence[Job],
    *,
    gpu: str,
    timeout_s: float | None,
    on_progress: Callable[[dict[str, Any]], None],
    signals: Signals,
) -> Iterator[str]:
    """Find the reference points that are missing for some cells, and keep them with their facts;
    yield notes: the scores, and why some are missing.

    Those that fail are left out: for good if they take longer than `LONGEST_S`, else until the next
    run, as after the user's limit for a cell, if that is less. Nothing is started where none is
    missing, nor for tries of a search for learning rates, which are scored on other examples. The
    process sees the GPU of a UUID alone, or none. StoppedError if the user stops it, DiskFullError
    if the facts can't be written.
    """
    longest_s = LONGEST_S if timeout_s is None else min(timeout_s, LONGEST_S)
    distinct = {
        (*(getattr(job.cell, name) for name in _OF_ENCODER), facts.trained_on(job.cell)): job
        for job in planned
        if not job.cell.is_trial
    }
    for job in distinct.values():
        cell = job.cell
        names, count = lacking(facts, cell), facts.trained_on(cell)
        if not names:
            continue
        whose = f" of {cell.model}" if len({job.cell.model for job in planned}) > 1 else ""
        points, is_late, why = _run(job, names, count, longest_s, gpu, on_progress, signals)
        missing = [name for name in names if name not in {each.name for each in points}]
        known = [*points]
        if is_late and longest_s == LONGEST_S:
            about = f"left out: the reference points took longer than {LONGEST_S:g} s"
            known += [
                Reference(name=name, about=about, train=count, scores={}, **encoder_of(name, cell))
                for name in missing
            ]
        if known:
            facts = update_facts(runs, data_digest, partial(_with_references, facts, known))
        if points:
            yield f"reference points{whose}: {_scores(points, DEFAULTS[facts.problem])}"
        if why:
            yield f"reference points{whose} {', '.join(missing)} left out: {why}"


def encoder_of(name: str, cell: Cell) -> dict[str, Any]:
    """The fields of a reference point on the encoder of a cell; none unless it depends on it."""
    return {field: getattr(cell, field) for field in _OF_ENCODER} if name == FROZEN else {}


def _with_references(
    new: DataFacts, references: Sequence[Reference], known: DataFacts | None
) -> DataFacts:
    """The facts in the file, or `new` where it has none, with further reference points."""
    facts = known or new
    return facts.model_copy(update={"references": (*facts.references, *references)})


def lacking(facts: DataFacts, cell: Cell) -> list[str]:
    """The missing reference points of a cell; none for random weights, which learn nothing."""
    if cell.init != "pretrained":
        return []
    known = {reference.name for reference in facts.references_for(cell)}
    return [name for name in REFERENCES if name not in known]


def _run(
    job: Job,
    names: Sequence[str],
    count: int,
    longest_s: float,
    gpu: str,
    on_progress: Callable[[dict[str, Any]], None],
    signals: Signals,
) -> tuple[list[Reference], bool, str]:
    """The reference points that a process found, whether it took too long, and why some are
    missing; empty if none are."""
    env = worker_environment(os.environ, job.threads, gpu, tuned=False)
    env |= {PARENT_PID: str(os.getpid())}
    request = [job.to_json(), count, names]
    points, phase, oom_before = list[Reference](), "start", oom_kills()
    try:
        with signals.raising():
            for answer in ask("bench.references.process", request, env=env, patience_s=longest_s):
                if PHASE in answer:
                    phase = answer[PHASE]
                    on_progress(answer)
                else:
                    points.append(Reference.model_validate(answer))
    except (ChildError, InputError, OSError) as error:
        is_late = isinstance(error, LateError)
        why = f"crashed ({error})"
        if is_late:
            why = f"timeout (took longer than {longest_s:g} s, phase: {phase})"
        elif oom_before is not None and (oom_kills() or 0) > oom_before:
            why = "oom (the host ran out of memory and the kernel killed it)"
        return points, is_late, one_line(why)
    return points, False, ""


def _scores(points: Sequence[Reference], metric: str) -> str:
    """Scores for a note, such as `majority 0.285, tf-idf 0.412`."""
    parts = []
    for reference in points:
        score = reference.scores.get(metric)
        shown = "not defined" if score is None else f"{score[0]:.3f}"
        parts.append(f"{reference.name} {shown if reference.scores else reference.about}")
    return f"{metric} of {', '.join(parts)}"
