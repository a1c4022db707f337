"""Costs from the cache, or from a process that counts them."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track

from bench.common.child import ChildError, ask
from bench.common.errors import DiskFullError, InputError
from bench.common.files import write_atomically
from bench.common.messages import echo, one_line
from bench.forecast.costs import Totals, Variant, fill_ranks, to_count
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.plan.cell import digest
from bench.plan.job import Job
from bench.results.protocol import PARENT_PID
from minbert.assets.cache import cache_folder

Lock = Callable[[], AbstractContextManager[None]]
"""Makes the context in which costs are counted, which may be waited for."""

_ROOT: Final = Path(__file__).parents[2]
_COSTS: Final[TypeAdapter[Totals | str]] = TypeAdapter(Totals | str)


class NoPredictionError(Exception):
    """Costs could not be counted. The message is one line; cells run all the same."""


def find_costs(
    jobs: Mapping[Variant, Job], seeds: Sequence[int], lock: Lock = nullcontext, gpu: str = ""
) -> dict[Variant, Totals]:
    """The costs of some variants, without those that can't be counted, of which a note is printed.

    Args:
        jobs: a job for each variant, the same for all cells of the variant.
        seeds: those whose batches are planned.
        lock: what other grids count while it is waited for is not counted again.
        gpu: the UUID of the one GPU that the counting process sees; empty: none.

    Raises:
        NoPredictionError: if none can be counted.
    """
    counted = to_count(jobs)
    request = [seeds, [jobs[variant].to_json() for variant in counted]]
    path = cache_folder() / "predictions" / f"{digest([request, sys.version, _code()], 32)}.json"
    costs = _kept(path, counted)
    if costs is None:
        with lock():
            costs = _kept(path, counted)
            if costs is None:
                text = _run(request, len(counted), gpu)
                costs = _parsed(text, counted)
                with suppress(OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, text.encode())
    totals = {v: cost for v, cost in costs.items() if isinstance(cost, Totals)}
    reasons = [cost for cost in costs.values() if isinstance(cost, str)]
    if not totals and reasons:
        raise NoPredictionError(reasons[0])
    for reason, number in Counter(reasons).items():
        settings = f"{number} setting{'s' if number > 1 else ''}"
        echo(f"note: memory and time of {settings} are not predicted: {reason}", err=True)
    return fill_ranks(totals, jobs)


@cache
def _code() -> str:
    """Digest of the code that is counted, that counts, and that a worker imports."""
    code = hashlib.sha256()
    for package in ("adapters", "bench", "minbert"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            code.update(path.read_bytes())
    return code.hexdigest()


def _kept(path: Path, variants: Sequence[Variant]) -> dict[Variant, Totals | str] | None:
    """The costs in a file of the cache; None without a valid file."""
    with suppress(OSError, UnicodeError, NoPredictionError):
        return _parsed(path.read_text(encoding="utf-8"), variants)
    return None


def _parsed(text: str, variants: Sequence[Variant]) -> dict[Variant, Totals | str]:
    """The costs that the counting process wrote, or the reasons why it could not count them;
    NoPredictionError if it wrote anything else."""
    try:
        costs = [_COSTS.validate_json(line) for line in text.splitlines()]
        return dict(zip(variants, costs, strict=True))
    except ValueError as error:
        why = one_line(str(error))
        raise NoPredictionError(f"the counting process wrote something else: {why}") from error


def _run(request: object, count: int, gpu: str) -> str:
    console = Console(stderr=True)
    if not console.is_terminal:
        echo(f"predicting memory and time of {count} settings", err=True)
    env = {**os.environ, VISIBLE: gpu, ORDER: BY_BUS, PARENT_PID: str(os.getpid())}
    try:
        answers = track(
            ask("bench.forecast.process", request, env=env),
            "predicting memory and time",
            total=count,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        return "".join(f"{json.dumps(answer)}\n" for answer in answers)
    except (ChildError, InputError) as error:
        raise NoPredictionError(str(error)) from error


def lock_on(device: str, signals: Signals) -> Lock:
    """Locks on a device, since counting would disturb the times of another grid on it.

    Entering one raises NoPredictionError if the device can't be locked. StoppedError is raised if
    the user stops the wait, or what runs inside.
    """

    @contextmanager
    def lock() -> Iterator[None]:
        try:
            with (
                Locks(device_locks(), signals) as devices,
                devices.using(device, lambda: echo("waiting for another grid", err=True)),
                signals.raising(),
            ):
                yield
        except DiskFullError as error:
            raise NoPredictionError(str(error)) from error

    return lock
