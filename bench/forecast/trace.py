"""The formulae of a variant, from one step and one evaluation on fake tensors.

Their batch size and length have prime factors that no size of the model has, so the factors of a
tensor's size say how it depends on them.
"""

from collections import Counter as Multiset
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from bench.engines.engine import engine_of
from bench.forecast.costs import Formulae
from bench.forecast.fake import UncountableError, batch_of, countable, evaluate, fill, trainer_of
from bench.plan.cell import FAST
from bench.plan.job import Job
from bench.worker.probes.counting import Counter
from minbert.kernels import products, reference
from minbert.kernels.reference import kernels
from minbert.model.classifier import Classifier

_MIB: Final = 2**20
_GFLOP: Final = 1e9
_ALIGNED: Final = 8  # some kernels pad a length to a multiple of it: the traced one is a multiple
_PRIMES: Final = (17, 13, 19, 23, 11, 29, 31, 7, 5, 3)
_GRADIENTS, _ACTIVATIONS, _OTHERS, _STATE = range(4)
Term = tuple[int, int]


def trace(job: Job) -> Formulae:
    """The formulae of the variant of a cell, whose model takes texts up to its `max_length`. A GPU
    that torch can't use is stood in for by its kernels on tensors of the CPU. UncountableError if
    the model asks for values, or has sizes like every batch's."""
    stands_in = job.device != "cpu" and not torch.cuda.is_available()
    job = _without_gpu(job) if stands_in else job
    cell = job.cell
    with countable(cell):
        model = engine_of(cell).skeleton(job)
        batch, prime = _traced_sizes(model, cell.max_length)
        texts, length = batch * (2 if model.heads[""].pairs else 1), _ALIGNED * prime
        gpu = _gpu_kernels() if stands_in else nullcontext()
        with FakeTensorMode(), kernels(cell.kernels or FAST), gpu, Tracer(batch, prime) as tracer:
            fill(model, torch.device(job.device))
            trainer = trainer_of(model, job)
            trainer.mark = tracer.mark
            tracer.begin()
            # from the second batch of a step on, gradients and activations exist at once
            count = min(2, cell.gradient_accumulation_steps)
            trainer.step(*[batch_of(model, trainer, "", (texts, length))] * count)
            flops, moved, operators = tracer.flops.copy(), tracer.moved.copy(), tracer.operators
            states = (values.values() for values in trainer.optimizer.state.values())
            state = [value for each in states for value in each if isinstance(value, Tensor)]
            tracer.own(state, _STATE)
            tracer.own((p.grad for p in trainer.parameters if p.grad is not None), _GRADIENTS)
            evaluate(model, trainer, "", (texts, length))
            held = [*model.parameters(), *model.buffers()]
            weights, optimizer = (sum(t.nbytes for t in each) / _MIB for each in (held, state))
    terms = sorted({*flops, *moved, *tracer.terms})
    return Formulae(
        weights,
        optimizer,
        terms,
        _peaks(tracer.moments(terms)).tolist(),
        operators / count,
        [flops[term] / count / _GFLOP for term in terms],
        [moved[term] / count / _MIB for term in terms],
    )


def _traced_sizes(model: Classifier, longest: int) -> tuple[int, int]:
    """Primes for the batch and the length, of which `_ALIGNED` times the second is traced."""
    sizes = {n for t in (*model.parameters(), *model.buffers()) for n in t.shape if n}
    free = [prime for prime in _PRIMES if all(size % prime for size in sizes)]
    of_length = [prime for prime in free if _ALIGNED * prime <= longest][:1]
    if not of_length or len(free) < 2:
        raise UncountableError("no batch and length differ from all sizes of the model")
    return next(prime for prime in free if prime not in of_length), of_length[0]


class Tracer(Counter):  # type: ignore[no-untyped-call]
    """Traces what a step on batches of a prime size, and of a length with another prime factor,
    allocates and computes, from `begin` on. `mark` is a trainer's."""

    def __init__(self, batch: int, prime: int) -> None:
        super().__init__()
        self._batch, self._prime = batch, prime
        self._numbers: dict[int, int] = {}  # of storages, by their key
        self.begin()

    def begin(self) -> None:
        self._numbers.clear()
        self._sizes: list[tuple[Term, float]] = []
        self._owners: list[int] = []
        self._events: list[tuple[int, int]] = []  # the storage, and 1 made or −1 released
        self._marks = [0]
        self.flops: Multiset[Term] = Multiset()
        self.moved: Multiset[Term] = Multiset()
        self.operators = 0

    @property
    def terms(self) -> set[Term]:
        return {term for term, _ in self._sizes}

    def mark(self) -> None:
        self._marks.append(len(self._events))

    def own(self, tensors: Iterable[Tensor], owner: int) -> None:
        for tensor in tensors:
            self._owners[self._numbers[tensor.untyped_storage()._cdata]] = owner

    def _made(self, key: int, size: int) -> None:
        number = self._numbers[key] = len(self._sizes)
        self._sizes.append(self._split(size))
        self._owners.append(_OTHERS)
        self._events.append((number, 1))

    def _released(self, key: int, size: int) -> None:  # noqa: ARG002
        if (number := self._numbers.pop(key, None)) is not None:
            self._events.append((number, -1))

    def _worked(self, flops: int, moved: Sequence[int]) -> None:
        self.operators += 1
        for amounts, counts in ((self.flops, [flops] if flops else []), (self.moved, moved)):
            for count in counts:
                term, amount = self._split(count)
                amounts[term] += amount  # type: ignore[assignment]

    def _split(self, size: int) -> tuple[Term, float]:
        return _split(size, self._batch, self._prime)

    def moments(self, terms: Sequence[Term]) -> NDArray[np.float64]:
        """The MiB of each owner by term after each event, [E, 3, T]."""
        owners = np.array(self._owners)
        made, released = np.zeros((2, len(owners)), dtype=int)
        released[:] = len(self._events)
        for event, (number, sign) in enumerate(self._events):
            (made if sign > 0 else released)[number] = event
        for begin, end in [*pairwise(self._marks)][::2]:  # of the forward passes
            kept = (begin <= made) & (made < end) & (released >= end) & (owners == _OTHERS)
            owners[kept] = _ACTIVATIONS
        index = {term: place for place, term in enumerate(terms)}
        changes = np.zeros((len(self._events), 4, len(terms)))
        for event, (number, sign) in enumerate(self._events):
            term, size = self._sizes[number]
            changes[event, owners[number], index[term]] = sign * size / _MIB
        return changes[:, :_STATE].cumsum(axis=0)


@lru_cache(maxsize=4096)
def _split(size: int, batch: int, prime: int) -> tuple[Term, float]:
    """The powers of the batch and of the length in a size, and the factor before them."""
    powers = []
    for divisor in (batch, prime):
        powers.append(0)
        while size and size % divisor == 0:
            size //= divisor
            powers[-1] += 1
    return (powers[0], powers[1]), size / _ALIGNED ** powers[1]


def _peaks(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """The moments that may be the peak: in none of the others every term is as large."""
    totals, places = np.unique(moments.sum(axis=1).round(9), axis=0, return_index=True)
    order = np.argsort(-totals.sum(axis=1))
    kept: list[int] = []
    for place in order:
        if not any((totals[other] >= totals[place]).all() for other in kept):
            kept.append(int(place))
    return moments[places[kept]]


def _without_gpu(job: Job) -> Job:
    """The job on a CPU, where bf16 stands for fp16, which has its size and needs a scaler."""
    cell = job.cell
    amp, frozen = ("bf16" if kind == "fp16" else kind for kind in (cell.amp, cell.frozen_dtype))
    cell = replace(cell, amp=amp or cell.amp, frozen_dtype=frozen)
    return replace(job, device="cpu", cell=cell)


@contextmanager
def _gpu_kernels() -> Iterator[None]:
    """Within the block, tensors of the CPU are computed with as those of a GPU."""
    before, modules = reference.on_cpu, (reference, products)
    for module in modules:
        setattr(module, "on_cpu", lambda _x: False)  # noqa: B010
    try:
        with _OnGpu():
            yield
    finally:
        for module in modules:
            setattr(module, "on_cpu", before)  # noqa: B010


class _OnGpu(TorchFunctionMode):
    """Computes with what torch takes on a GPU: attention by a fused kernel, dropout that keeps a
    mask of bytes, and LayerNorm under AMP in fp32."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        if func is F.dropout:
            p = args[1] if len(args) > 1 else kwargs["p"]
            return torch.ops.aten.native_dropout(args[0], p, True)[0]
        if func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    **_: Any,
) -> Tensor:  # fmt: skip
    """By the kernel that torch calls efficient, which takes a bias."""
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    bias = None if attn_mask is None else attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    differentiated = torch.is_grad_enabled() and q.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, differentiated, dropout_p
    )[0]
