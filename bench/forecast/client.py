"""Costs from the cache, or from a process that counts them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.common.errors import DiskFullError
from bench.common.messages import last_error
from bench.forecast.cache import Cache
from bench.forecast.costs import (
    COUNTS,
    IMPORTS,
    SHAPES,
    Costs,
    CountsOf,
    ShapesOf,
    Variant,
    fill_ranks,
    to_count,
)
from bench.forecast.process import FILE
from bench.forecast.workload import REQUEST, Workload
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.results.protocol import PARENT_PID, PROGRESS_FD

OnProgress = Callable[[int, int], None]
"""Called with the number of variants counted so far, and the number of all."""


Turn = Callable[[], AbstractContextManager[None]]
"""Makes the context in which costs are counted."""


class NoPredictionError(Exception):
    """Costs could not be counted. The message is one line; cells run all the same."""


def find_costs(
    workload: Workload,
    variants: Sequence[Variant],
    on_progress: OnProgress,
    turn: Turn = nullcontext,
    gpu: str = "",
) -> Costs:
    """The costs of some variants of a workload.

    Args:
        turn: makes the context in which variants are counted. Entering it may wait for other
            grids; what they counted meanwhile is not counted again.
        gpu: the UUID of the one GPU that the counting process sees; empty: none.

    Raises:
        NoPredictionError: if they can't be counted.
    """
    ends = to_count(variants)
    costs = _cached(workload, ends, Cache())
    if costs is None:
        with turn():
            costs = _cached(workload, ends, Cache()) or _count(workload, ends, on_progress, gpu)
    return Costs(costs.shapes, fill_ranks(costs.counts, variants), costs.imports_mib)


def _cached(workload: Workload, variants: Sequence[Variant], cache: Cache) -> Costs | None:
    """The costs of all variants from a cache; None if any is missing."""
    imports = cache.read(workload.imports_key(), IMPORTS)
    if imports is None:
        return None
    shapes: dict[int, ShapesOf] = {}
    counts: dict[Variant, CountsOf] = {}
    for variant in variants:
        size = variant.batch_size
        of_size = shapes.get(size) or cache.read(workload.shapes_key(size), SHAPES)
        if of_size is None:
            return None
        of_variant = cache.read(workload.counts_key(of_size, variant), COUNTS)
        if of_variant is None:
            return None
        shapes[size], counts[variant] = of_size, of_variant
    return Costs(shapes, counts, imports)


def _count(
    workload: Workload, variants: Sequence[Variant], on_progress: OnProgress, gpu: str
) -> Costs:
    """The costs of all variants, counted by a process where they are not cached."""
    with tempfile.TemporaryDirectory(prefix="bench-forecast-") as name:
        folder = Path(name)
        (folder / FILE).write_bytes(REQUEST.dump_json((workload, list(variants))))
        _run(folder, len(variants), on_progress, gpu)
        costs = _cached(workload, variants, Cache(folder))
    if costs is None:
        raise NoPredictionError("the process that counts did not count everything it was asked for")
    return costs


def turn_on(device: str, signals: Signals) -> Turn:
    """Turns on a device, since counting would disturb the times of another grid on it.

    Entering one raises NoPredictionError if the device can't be locked. StoppedError is raised if
    the user stops the wait, or what runs inside.
    """

    def on_wait() -> None:
        sys.stderr.write("waiting for another grid\n")

    @contextmanager
    def turn() -> Iterator[None]:
        with ExitStack() as held:
            try:
                devices = held.enter_context(Locks(device_locks(), signals, on_wait))
                held.enter_context(devices.turn(device))
            except DiskFullError as error:
                raise NoPredictionError(str(error)) from error
            held.enter_context(signals.raising())
            yield

    return turn


def _run(folder: Path, total: int, on_progress: OnProgress, gpu: str) -> None:
    """Run the counting process to its end. It ends with this process, however that dies."""
    read, write = os.pipe()
    devices = {VISIBLE: gpu, ORDER: BY_BUS}  # as of a worker
    protocol = {PARENT_PID: str(os.getpid()), PROGRESS_FD: str(write)}
    with os.fdopen(read, encoding="utf-8", errors="replace") as progress:
        with (folder / "stderr.txt").open("w+b") as stderr:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "bench.forecast.process", str(folder)],
                    env={**os.environ, **devices, **protocol},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(write,),
                )
            except OSError as error:
                raise NoPredictionError(f"no process to count: {error.strerror}") from error
            finally:
                os.close(write)
        with process:
            for line in progress:
                _report(line, on_progress)
            code = process.wait()
    if code != 0:
        text = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")
        error_line = last_error(text).removeprefix("error: ")
        raise NoPredictionError(error_line or f"counting ended with exit code {code}")
    on_progress(total, total)


def _report(line: str, on_progress: OnProgress) -> None:
    try:
        message: Any = json.loads(line)
    except ValueError:
        return
    if isinstance(message, dict) and "step" in message and "steps" in message:
        on_progress(int(message["step"]), int(message["steps"]))
