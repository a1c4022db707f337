"""Trains at the boundary of what fits, each batch in a process of its own."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from bench.common.errors import InputError, StoppedError
from bench.common.files import write_atomically
from bench.fit.answers import Answer
from bench.launch.attempt import WORKER
from bench.launch.limit import Limited, limited
from bench.launch.locks import Locks, device_locks
from bench.launch.runner import run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import Target
from bench.machine.environment import worker_environment
from bench.plan import job as jobs
from bench.plan.cell import Cell
from bench.plan.models import Model
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.prepared import FILE, Prepared, write

_TASK: Final = "fit"
_CLASSES: Final = ("no", "yes")
BY_LIMIT: Final = "the limit of a control group"
BY_PEAK: Final = "the measured peak"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a setting's trainings showed: the largest batch that fitted, 0 if none did, and the
    smallest that did not; `by` says what decided. `peaks_mib` are the measured ones by batch."""

    model: str
    setting: str
    length: int
    limit_mib: float
    promised: int
    found: int
    too_large: int
    by: str
    peaks_mib: dict[int, float]

    @property
    def is_right(self) -> bool:
        """Whether the promised batch fitted and a tenth more, or one text more, did not."""
        return self.found == self.promised and self.too_large == larger(self.promised)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        ends = f"{self.found:,} fitted, {self.too_large:,} did not, by {self.by}"
        what = f"{self.setting}, length {self.length}: promised {self.promised:,}; {ends}"
        return what if self.is_right else f"{what}: {_off_by(self.promised, self.found)}"


def _off_by(promised: int, found: int) -> str:
    if not found:
        return "the forecast was wrong, and no batch was found that fits"
    side = "too large" if promised > found else "too small"
    return f"the forecast was {side} by {abs(promised / found - 1):.0%}"


def larger(batch: int) -> int:
    """A tenth more, and at least one text."""
    return batch + max(1, batch // 10)


def boundary(fits: Callable[[int], bool], promised: int) -> tuple[int, int]:
    """The largest batch that fitted and the smallest that did not, searched from a promised one on
    in steps of a tenth; 0 and 1 if none fitted."""
    low, high = 0, 0
    if fits(promised):
        low, high = promised, larger(promised)
        while fits(high):
            low, high = high, larger(high)
        return low, high
    high = promised
    while high > 1:
        smaller = high - max(1, high // 10)
        if fits(smaller):
            return smaller, high
        high = smaller
    return 0, high


def verify(
    answer: Answer, model: Model, target: Target, limit_mib: float, signals: Signals, say: Say
) -> Verified:
    """The boundary of a setting at a length. StoppedError if the user stops it, InputError for a
    training that fails otherwise than for its memory."""
    peaks: dict[int, float] = {}
    on_cpu = target.conditions.device == "cpu"
    with (
        TemporaryDirectory(prefix="minbert-fit-", ignore_cleanup_errors=True) as folder,
        Locks(device_locks(), signals) as devices,
        devices.using(target.device_name, lambda: say("waiting for another grid")),
        limited(limit_mib) if on_cpu else nullcontext() as group,
    ):
        by = BY_PEAK if group is None else BY_LIMIT

        def fits(batch: int) -> bool:
            say(f"{answer.label}, length {answer.length}, batch {batch:,}")
            peak = _train(answer, batch, Path(folder), model, target, group, signals)
            if peak is not None:
                peaks[batch] = peak
            return peak is not None and (group is not None or peak <= limit_mib)

        found, too_large = boundary(fits, answer.batch)
    return Verified(
        model=model.name, setting=answer.label, length=answer.length, limit_mib=limit_mib,
        promised=answer.batch, found=found, too_large=too_large, by=by, peaks_mib=peaks,
    )  # fmt: skip


def _train(
    answer: Answer, batch: int, folder: Path, model: Model, target: Target,
    group: Limited | None, signals: Signals,
) -> float | None:  # fmt: skip
    """The peak of two steps on batches of that many texts, MiB; None if memory did not suffice."""
    cell, data = _cell(answer, batch, folder)
    conditions = target.conditions
    job = model.job(
        cell, data, device=conditions.worker_device, threads=conditions.threads, measure=False
    )
    place = folder / "cell"
    place.mkdir(exist_ok=True)
    write_atomically(place / jobs.FILE, job.to_json().encode())
    argv = [*WORKER, str(place.resolve())]
    own_cache = {"MINBERT_CACHE": str(folder / "cache")}  # whose tokens nobody needs again
    before = group.kills() if group else 0
    ended = run_worker(
        place, group.argv(argv) if group else argv, timeout_s=None, signals=signals,
        env=worker_environment(os.environ, conditions.threads, target.gpu) | own_cache,
        on_progress=lambda _progress: None,
    )  # fmt: skip
    if ended.status == "interrupted":
        raise StoppedError
    if ended.status == "oom" or (group is not None and group.kills() > before):
        return None
    if ended.status != "ok" or ended.result is None:
        raise InputError(f"{answer.label}, batch {batch}: ended {ended.status}: {ended.message}")
    columns = ended.result["columns"]
    names = ("peak_process_vram_mib", "peak_cuda_reserved_mib", "peak_rss_mib")
    return float(next(columns[name] for name in names if columns.get(name) is not None))


def _cell(answer: Answer, batch: int, folder: Path) -> tuple[Cell, Path]:
    """A cell of two steps on texts of the length, as many in dev as in a batch, and its data."""
    count = batch * answer.cell.gradient_accumulation_steps
    text = " ".join(["a"] * answer.length)

    def examples(number: int) -> Examples:
        return Examples((text,) * number, None, np.arange(number) % len(_CLASSES))

    task = Task(_TASK, _CLASSES, (FILE,), is_own=True)
    data = TaskData(task, examples(count), examples(batch))
    prepared = Prepared(_TASK, "single_label", _CLASSES, data.digest)
    cell = replace(
        answer.cell, batch_size=batch, max_length=answer.length, epochs=2, max_steps=2,
        max_train=None, max_dev=None, held_out=0.0, early_stopping=None, task=_TASK,
        data_digest=data.digest[:16], regression_loss=None,
    )  # fmt: skip
    return cell, write(folder / "data", prepared, data)
