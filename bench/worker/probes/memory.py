"""Memory of this process in MiB: peaks, also by phase with its time, and its parts by owner."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.common.files import text_or_empty
from bench.plan.cell import Columns
from bench.worker.device import if_memory_suffices
from minbert.data.batches import Batch
from minbert.training.optimizer import Optimizer
from minbert.training.trainer import Trainer, autocast, logits_of

MIB: Final = 2**20
_STATUS: Final = Path("/proc/self/status")
_FIELDS: Final = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem")


@dataclass
class Resident:
    """A process's peak resident set, and its anonymous part, which is not of mapped files; None
    where the system does not report it."""

    rss_mib: float | None = None
    anon_mib: float | None = None

    def take(self, other: "Resident") -> None:
        for name, value in vars(other).items():
            known = [mib for mib in (getattr(self, name), value) if mib is not None]
            setattr(self, name, max(known, default=None))


def resident_now() -> Resident:
    status = _status()
    return Resident(status.get("VmRSS"), status.get("RssAnon"))


def forget_peak() -> None:
    """Reset the kernel's peak of the resident set, if possible."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_so_far() -> Resident:
    """The peaks since the last reset, or of the process so far if it could not be reset; not of
    `ru_maxrss`, which is inherited across exec. The anonymous part is the peak less the files that
    are mapped now: mapped weights and libraries only grow."""
    status = _status()
    peak, files = status.get("VmHWM"), status.get("RssFile")
    if peak is None or files is None:
        return Resident(peak)
    return Resident(peak, max(0.0, peak - files - status.get("RssShmem", 0.0)))


def _status() -> dict[str, float]:
    pairs = (line.partition(":") for line in text_or_empty(_STATUS).splitlines())
    return {name: int(text.split()[0]) / 1024 for name, _, text in pairs if name in _FIELDS}


class Phases:
    """Measures and announces phases, one after the other; a repeated name adds to its time."""

    def __init__(self, on_phase: Callable[[str], None] = lambda _name: None) -> None:
        self._on_phase = on_phase
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, Resident] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._on_phase(name)
        begun = time.perf_counter()
        forget_peak()
        try:
            yield
        finally:
            self.peaks.setdefault(name, Resident()).take(peak_so_far())
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    @property
    def peak(self) -> Resident:
        highest = Resident()
        for peak in self.peaks.values():
            highest.take(peak)
        return highest


def start_cuda_peaks(device: torch.device) -> None:
    """Reset the peaks of torch's CUDA allocator, and return its unused memory to the driver, so
    that loading and compiling do not count as the training's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def cuda_peaks_mib(device: torch.device, *, graphs: bool) -> dict[str, float]:
    """Peak CUDA memory allocated by tensors and reserved by the allocator; empty on the CPU. Values
    are left out that an allocator does not count, as without caching
    (PYTORCH_NO_CUDA_MEMORY_CACHING), or for the `graphs` of compiled cells (cudaMallocAsync)."""
    reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
    if not reserved:
        return {}
    peaks = {"peak_cuda_reserved_mib": reserved / MIB}
    allocated = torch.cuda.max_memory_allocated(device)
    with suppress(RuntimeError):
        allocated += _held_by_graphs() if graphs else 0
        peaks["peak_cuda_allocated_mib"] = min(allocated, reserved) / MIB
    return peaks


def _held_by_graphs() -> int:
    """Bytes in the pools of CUDA graphs that the allocator does not count as allocated: a graph
    writes its activations to the memory that it was recorded with."""
    segments: Any = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in segments
        if tuple(segment["segment_pool_id"]) != (0, 0)  # the default pool
    )


def owned_mib(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Memory of weights and buffers, of the gradients and of the optimizer's state, all of which
    exist after a step and before the gradients are dropped."""

    def size_mib(tensors: Iterable[Tensor]) -> float:
        distinct = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.nbytes}
        return sum(distinct.values()) / MIB

    parameters = list(model.parameters())
    return {
        "weights_mib": size_mib([*parameters, *model.buffers()]),
        "gradients_mib": size_mib(p.grad for p in parameters if p.grad is not None),
        "optimizer_mib": size_mib(chain(*(state.values() for state in optimizer.state.values()))),
    }


class SavedTensors:
    """Measures the tensors that a forward pass keeps for its backward pass, each storage once and
    without those of parameters, which exist anyway."""

    def __init__(self, model: nn.Module) -> None:
        owned = [*model.parameters(), *model.buffers()]
        self._owned = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self._kept: dict[int, Any] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._owned:
            self._kept[storage.data_ptr()] = storage
        return tensor

    @property
    def mib(self) -> float:
        return float(sum(storage.nbytes() for storage in self._kept.values())) / MIB


def measure_activations(trainer: Trainer, largest: Batch) -> Columns:
    """Memory that the forward pass of the largest batch keeps for its backward pass; empty without
    enough memory for it, since the training itself did succeed. Nothing is trained."""
    trainer.optimizer.zero_grad()
    saved = SavedTensors(trainer.model)
    columns: Columns = {}
    with if_memory_suffices(trainer.device):
        with saved.counting(), autocast(trainer.amp, trainer.device):
            _logits = logits_of(trainer.model, largest)  # which keeps what is saved
        columns["activations_mib"] = saved.mib
    return columns
