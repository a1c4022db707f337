"""Counts the work of torch: memory alive, products, bytes moved; for fake and for real tensors.

A storage counts once, from the operator that makes it until its last tensor is gone. Memory that a
kernel allocates for itself while it runs is not counted.
"""

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.plan.cell import Columns
from bench.worker.device import if_memory_suffices

_ATEN: Final = torch.ops.aten


_FLOPS: Final[dict[Any, Any]] = {
    **flop_registry,
    getattr(torch.ops.mkldnn, "_linear_pointwise", None): (
        lambda x, weight, *_, **_out: 2 * x.numel() * len(weight)
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}
_DEVICE: Final = torch.ops.prim.device.default
_NO_WORK: Final = {
    *(_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty),
    _ATEN._unsafe_view,
}
"""Operators that make storages without writing to them, or views that are not marked as views."""

_CUDA_BLOCK: Final = 512  # bytes to a multiple of which torch's allocator on a GPU rounds up


class Work(NamedTuple):
    """Floating-point operations of products, bytes moved, and operators run."""

    flops: int = 0
    moved: int = 0
    kernels: int = 0

    def minus(self, other: "Work") -> "Work":
        return Work(*map(operator.sub, self, other))


class Counter(TorchDispatchMode):
    """A context that counts what runs in it: bytes `alive` now, their `peak`, and `work` so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.peak = 0
        self.work = Work()
        self._storages: dict[int, Any] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: the wrapper that torch would add costs time, and nothing here is compiled."""
        return False

    def restart_peak(self) -> None:
        """Begin a new peak at the memory that is alive now."""
        self.peak = self.alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # the answer of the operator, much sooner
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = list(_tensors([out]))
        for tensor in made:
            self._hold(tensor)
        packet = func._overloadpacket
        if func.namespace in ("aten", "mkldnn") and not func.is_view and packet not in _NO_WORK:
            given = _tensors([*args, *kwargs.values()])
            formula = _FLOPS.get(packet)
            flops = formula(*args, **kwargs, out_val=out) if formula is not None else 0
            self._worked(flops, [tensor.nbytes for tensor in chain(given, made)])
        return out

    def _worked(self, flops: int, moved: Sequence[int]) -> None:
        done = self.work
        self.work = Work(done.flops + flops, done.moved + sum(moved), done.kernels + 1)

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        if tensor.device.type == "cuda":
            size = -(-size // _CUDA_BLOCK) * _CUDA_BLOCK

        def release(_reference: object) -> None:
            del self._storages[key]
            self._released(key, size)

        self._storages[key] = weakref.ref(storage, release)
        self._made(key, size)

    def _made(self, _key: int, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _released(self, _key: int, size: int) -> None:
        self.alive -= size


def measure_work(take_step: Callable[[], object], device: torch.device) -> Columns:
    """The columns of the work of one training step, as torch's operators do it; empty without
    enough memory for it, since the training itself did succeed. Random numbers are afterwards as
    before."""
    columns: Columns = {}
    with if_memory_suffices(device), Counter() as counter:
        take_step()
        flops, moved, operators = counter.work
        columns = {"step_gflop": flops / 1e9, "step_operators": operators}
        columns["step_moved_mib"] = moved / 2**20
    return columns


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
