"""Gets costs from the cache, or from a process that counts them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.common.messages import last_error
from bench.forecast import cache
from bench.forecast.costs import (
    Costs,
    CountsOf,
    ShapesOf,
    Variant,
    counts_from_json,
    fill_ranks,
    shapes_from_json,
    stages_of,
    to_count,
)
from bench.forecast.process import ANSWER, REQUEST
from bench.forecast.workload import Workload
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.results.protocol import PARENT_PID, PROGRESS_FD

_IMPORTS: Final = ("peak_rss_mib", "peak_anon_mib")

OnProgress = Callable[[int, int], None]
"""Told how many variants are counted, and of how many."""


class NoPredictionError(Exception):
    """Costs could not be counted. The message is one line; cells run all the same."""


def find_costs(
    workload: Workload,
    variants: Sequence[Variant],
    on_progress: OnProgress,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    gpu: str = "",
) -> Costs:
    """What some variants of a workload cost.

    Args:
        turn: makes what is entered before anything is counted, and may wait for others. What they
            counted meanwhile is taken.
        gpu: the one GPU that the process which counts may see, by its UUID; empty: none.

    Raises:
        NoPredictionError: if it can't be told.
    """
    wanted = to_count(variants)
    found = _kept(workload, wanted)
    if found is None:
        with turn():
            found = _kept(workload, wanted) or _counted(workload, wanted, on_progress, gpu)
    return Costs(found.shapes, fill_ranks(found.counts, variants), found.imports_mib)


def _kept(workload: Workload, wanted: Sequence[Variant]) -> Costs | None:
    """What the cache holds, if that is all of it."""
    imports = _imports(cache.read(workload.imports_key()))
    if imports is None:
        return None
    shapes: dict[int, ShapesOf] = {}
    counts: dict[Variant, CountsOf] = {}
    for variant in wanted:
        size = variant.batch_size
        of = shapes.get(size) or shapes_from_json(cache.read(workload.shapes_key(size)))
        if of is None:
            return None
        shapes[size] = of
        kept = counts_from_json(cache.read(workload.counts_key(of, variant)))
        if kept is None or not _is_all(kept, of, variant):
            return None
        counts[variant] = kept
    return Costs(shapes, counts, imports)


def _is_all(counts: CountsOf, shapes: ShapesOf, variant: Variant) -> bool:
    """Whether counts are of every part and stage."""
    stages = stages_of(variant, shapes)
    return counts.keys() == shapes.keys() and all(len(of) == stages for of in counts.values())


def _counted(
    workload: Workload, wanted: Sequence[Variant], on_progress: OnProgress, gpu: str
) -> Costs:
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as name:
        folder = Path(name)
        request = {"workload": asdict(workload), "variants": wanted}
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        _run(folder, len(wanted), on_progress, gpu)
        answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    imports = _imports(answer["imports_mib"])
    shapes = {
        int(size): of
        for size, values in answer["shapes"]
        if (of := shapes_from_json(values)) is not None
    }
    counts = {
        variant: counted
        for variant, values in zip(wanted, answer["counts"], strict=False)
        if (counted := counts_from_json(values)) is not None
        and variant.batch_size in shapes
        and _is_all(counted, shapes[variant.batch_size], variant)
    }
    if imports is None or len(counts) < len(wanted):
        raise NoPredictionError("the process that counts gave another answer than was asked")
    return Costs(shapes, counts, imports)


def _imports(values: object) -> dict[str, float] | None:
    if not isinstance(values, dict) or not all(
        isinstance(values.get(name), int | float) for name in _IMPORTS
    ):
        return None
    return {name: float(values[name]) for name in _IMPORTS}


def _run(folder: Path, total: int, on_progress: OnProgress, gpu: str) -> None:
    """Run the process to its end. It ends too when this one does, however that dies."""
    read, write = os.pipe()
    devices = {VISIBLE: gpu, ORDER: BY_BUS}  # those of a worker
    protocol = {PARENT_PID: str(os.getpid()), PROGRESS_FD: str(write)}
    with os.fdopen(read, encoding="utf-8", errors="replace") as told:
        with (folder / "stderr.txt").open("w+b") as stderr:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "bench.forecast.process", str(folder)],
                    env={**os.environ, **devices, **protocol},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(write,),
                )
            except OSError as error:
                raise NoPredictionError(f"no process to count: {error.strerror}") from error
            finally:
                os.close(write)
        with process:
            for line in told:
                _pass_on(line, on_progress)
            code = process.wait()
    if code != 0:
        text = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")
        said = last_error(text).removeprefix("error: ")
        raise NoPredictionError(said or f"counting ended with exit code {code}")
    on_progress(total, total)


def _pass_on(line: str, on_progress: OnProgress) -> None:
    try:
        message: Any = json.loads(line)
    except ValueError:
        return
    if isinstance(message, dict) and "step" in message and "steps" in message:
        on_progress(int(message["step"]), int(message["steps"]))
