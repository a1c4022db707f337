"""Costs from the cache, or from a process that counts them."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter
from rich.progress import track

from bench.common.child import ChildError, ask
from bench.common.errors import DiskFullError, InputError
from bench.common.files import write_atomically
from bench.common.messages import count, echo, one_line
from bench.common.progress import Console
from bench.forecast.costs import Formulae, Totals, Variant, fill_ranks, to_count
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.machine.version import digest_of_code
from bench.plan.cell import digest
from bench.plan.job import Job
from bench.results.protocol import PARENT_PID
from minbert.assets.cache import cache_folder

Lock = Callable[[], AbstractContextManager[None]]
"""Makes the context in which costs are counted, which may be waited for."""

_CODE: Final = ("adapters", "bench", "minbert")
"""The code that is counted, that counts, and that a worker imports."""
Key = TypeVar("Key")
Answer = TypeVar("Answer", Totals, Formulae)


class NoPredictionError(Exception):
    """Costs could not be counted. The message is one line; cells run all the same."""


def find_costs(
    jobs: Mapping[Variant, Job], seeds: Sequence[int], lock: Lock = nullcontext, gpu: str = ""
) -> dict[Variant, Totals]:
    """The costs of some variants, each with a job that stands for all of its cells, and with the
    seeds whose batches are planned; without those that can't be counted, of which a note is
    printed.

    What other grids count while the lock is waited for is not counted again. The counting process
    sees the GPU with this UUID alone; empty: none. NoPredictionError if none can be counted.
    """
    counted = to_count(jobs)
    totals = _known(_answers(Totals, seeds, {v: jobs[v] for v in counted}, lock, gpu))
    return fill_ranks(totals, jobs)


def find_formulae(jobs: Mapping[Key, Job], lock: Lock, gpu: str) -> dict[Key, Formulae]:
    """The formulae of some jobs, whose batch size and length don't matter. Arguments and errors are
    those of `find_costs`."""
    return _known(_answers(Formulae, None, jobs, lock, gpu))


def _answers(
    kind: type[Answer], seeds: Sequence[int] | None, jobs: Mapping[Key, Job], lock: Lock, gpu: str
) -> dict[Key, Answer | str]:
    request = [seeds, [job.to_json() for job in jobs.values()]]
    key = digest([request, sys.version, digest_of_code(*_CODE)], 32)
    path = cache_folder() / "predictions" / f"{key}.json"
    answers = _kept(path, kind, [*jobs])
    if answers is None:
        with lock():
            answers = _kept(path, kind, [*jobs])
            if answers is None:
                text = _run(request, len(jobs), gpu)
                answers = _parsed(text, kind, [*jobs])
                with suppress(OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, text.encode())
    return answers


def _known(answers: Mapping[Key, Answer | str]) -> dict[Key, Answer]:
    """Those that could be counted, with a note on others; NoPredictionError without any."""
    known = {key: answer for key, answer in answers.items() if not isinstance(answer, str)}
    reasons = [answer for answer in answers.values() if isinstance(answer, str)]
    if not known and reasons:
        raise NoPredictionError(reasons[0])
    for reason, number in Counter(reasons).items():
        settings = f"{number} setting{'s' if number > 1 else ''}"
        echo(f"note: memory and time of {settings} are not predicted: {reason}", err=True)
    return known


def _kept(path: Path, kind: type[Answer], keys: Sequence[Key]) -> dict[Key, Answer | str] | None:
    """The answers in a file of the cache; None without a valid file."""
    with suppress(OSError, UnicodeError, NoPredictionError):
        return _parsed(path.read_text(encoding="utf-8"), kind, keys)
    return None


def _parsed(text: str, kind: type[Answer], keys: Sequence[Key]) -> dict[Key, Answer | str]:
    """What the counting process wrote for each key, or the reasons why it could not count;
    NoPredictionError if it wrote anything else."""
    either: Any = kind | str
    adapter: TypeAdapter[Answer | str] = TypeAdapter(either)
    try:
        answers = [adapter.validate_json(line) for line in text.splitlines()]
        return dict(zip(keys, answers, strict=True))
    except ValueError as error:
        why = one_line(str(error))
        raise NoPredictionError(f"the counting process wrote something else: {why}") from error


def _run(request: object, number: int, gpu: str) -> str:
    console = Console(stderr=True)
    if not console.is_terminal:
        echo(f"predicting memory and time of {count(number, 'setting')}", err=True)
    env = {**os.environ, VISIBLE: gpu, ORDER: BY_BUS, PARENT_PID: str(os.getpid())}
    try:
        answers = track(
            ask("bench.forecast.process", request, env=env),
            "predicting memory and time",
            total=number,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        return "".join(f"{json.dumps(answer)}\n" for answer in answers)
    except (ChildError, InputError) as error:
        raise NoPredictionError(str(error)) from error


def lock_on(device: str, signals: Signals) -> Lock:
    """Locks on a device, since counting would disturb the times of another grid on it. Entering one
    raises NoPredictionError if the device can't be locked. StoppedError is raised if the user stops
    the wait, or what runs inside."""

    @contextmanager
    def lock() -> Iterator[None]:
        try:
            with (
                Locks(device_locks(), signals) as devices,
                devices.using(device, partial(echo, err=True)),
                signals.raising(),
            ):
                yield
        except DiskFullError as error:
            raise NoPredictionError(str(error)) from error

    return lock
