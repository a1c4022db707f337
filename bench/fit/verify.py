"""Trains at the boundary of what fits, each batch in a process of its own."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

import numpy as np

from bench.common.errors import InputError, StoppedError
from bench.common.files import write_atomically
from bench.examples.tokens import share
from bench.fit.answers import LARGEST
from bench.launch.attempt import WORKER
from bench.launch.locks import Locks, device_locks
from bench.launch.runner import Limited, limited, run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import Target
from bench.machine.environment import worker_environment
from bench.plan import job as jobs
from bench.plan.cell import Cell
from bench.plan.models import Model
from bench.report.text import phrase
from bench.results.curves import Point
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.prepared import FILE, Prepared, write

_CACHE: Final = "MINBERT_CACHE"
_TASK: Final = Task("fit", ("no", "yes"), (FILE,), is_own=True)
BY_PEAKS: Final = "measured peaks"
BY_LIMIT: Final = f"the limit of a control group and {BY_PEAKS}"
_PEAKS: Final = ("peak_process_vram_mib", "peak_cuda_reserved_mib", "peak_rss_mib")


@dataclass(kw_only=True)
class Verified:
    """What trainings of a setting showed: the largest batch that fitted, 0 if none did, and the
    smallest that did not; `by` says what decided. `peaks_mib` are the measured ones by batch."""

    model: str
    setting: str
    length: int
    limit_mib: float
    promised: int
    by: str
    fits: int = 0
    too_large: int = 0
    peaks_mib: dict[int, float] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        """Whether the promised batch fitted; a larger one may fit too."""
        return self.fits >= self.promised

    def __str__(self) -> str:
        return phrase("fits", "verified", self, larger(self.promised), LARGEST)


def larger(batch: int) -> int:
    """A tenth more, and at least one text; no more than a grid takes, after which comes one more,
    which is never tried."""
    return min(batch + max(1, batch // 10), max(LARGEST, batch + 1))


def boundary(fits: Callable[[int], bool], promised: int) -> tuple[int, int]:
    """The largest batch that fitted, 0 if none did, and the smallest that did not, searched from a
    promised one on in steps of a tenth."""
    low, high = promised, larger(promised)
    if fits(low):
        while high <= LARGEST and fits(high):
            low, high = high, larger(high)
        return low, high
    while low:
        low, high = low - max(1, low // 10), low
        if low and fits(low):
            break
    return low, high


def verified(
    cell: Cell, point: Point, model: Model, target: Target, limit_mib: float, mapped_mib: float,
    signals: Signals, say: Callable[[str], None],
) -> Verified:  # fmt: skip
    """The boundary of a setting, from what was promised. What fits ends within the limit, by its
    measured peak too: a control group does not count the `mapped_mib` of libraries' files, which
    were read before, so its limit is less by them, but not by other files that a worker maps.
    StoppedError if the user stops it, InputError for a training that fails otherwise than for its
    memory."""
    on_cpu = target.conditions.device == "cpu"
    with (
        TemporaryDirectory(prefix="minbert-fit-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {_CACHE: folder}),  # for tokens, which nobody needs again
        Locks(device_locks(), signals) as devices,
        devices.using(target.device_name, say),
        limited(limit_mib - mapped_mib) if on_cpu else nullcontext() as group,
    ):
        shown = Verified(
            model=model.name, setting=point.setting, length=point.length, limit_mib=limit_mib,
            promised=point.batch, by=BY_LIMIT if group else BY_PEAKS,
        )  # fmt: skip

        def fits(batch: int) -> bool:
            say(f"{point.setting}, {point.length} tokens, batch {batch:,}")
            sized = replace(cell, batch_size=batch, max_length=point.length)
            peak = _train(sized, Path(folder), model, target, group, signals)
            if peak is not None:
                shown.peaks_mib[batch] = peak
            return peak is not None and peak <= limit_mib

        shown.fits, shown.too_large = boundary(fits, point.batch)
    return shown


def _train(
    cell: Cell, folder: Path, model: Model, target: Target, group: Limited | None, signals: Signals
) -> float | None:
    """The peak of two steps on batches of the cell's size, MiB; None if memory did not suffice."""
    text = " ".join(["a"] * cell.max_length)

    def examples(count: int) -> Examples:
        return Examples((text,) * count, None, np.arange(count) % len(_TASK.classes))

    batch = cell.batch_size
    data = TaskData(_TASK, examples(batch * cell.gradient_accumulation_steps), examples(batch))
    prepared = Prepared(_TASK.name, "single_label", _TASK.classes, data.digest)
    cell = replace(
        cell, epochs=2, max_steps=2, max_train=None, max_dev=None, held_out=0.0,
        early_stopping=None, task=_TASK.name, data_digest=data.digest[:16], regression_loss=None,
    )  # fmt: skip
    job = model.job(
        cell, write(folder / "data", prepared, data), device=target.conditions.worker_device,
        threads=target.conditions.threads, measure=False,
    )  # fmt: skip
    place = folder / "cell"
    place.mkdir(exist_ok=True)
    write_atomically(place / jobs.FILE, job.to_json().encode())
    share(data, cell, model.tokenizer, Path(job.data or ""))  # as a grid does before a worker
    argv, before = [*WORKER, str(place.resolve())], group.kills() if group else 0
    ended = run_worker(
        place, group.argv(argv) if group else argv, timeout_s=None, signals=signals,
        env=worker_environment(os.environ, job.threads, target.gpu), on_progress=lambda _: None,
    )  # fmt: skip
    if ended.status == "interrupted":
        raise StoppedError
    if ended.status == "oom" or (group is not None and group.kills() > before):
        return None
    if ended.status != "ok" or ended.result is None:
        raise InputError(f"{cell.name}, batch {batch}: ended {ended.status}: {ended.message}")
    columns = ended.result["columns"]
    return float(next(columns[name] for name in _PEAKS if columns.get(name) is not None))
