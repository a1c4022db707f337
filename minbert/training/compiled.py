"""A model's forward and backward pass by torch.compile, for the few shapes of its batches.

On a GPU the time of a step of a small encoder is that of launching its kernels. Compiled code has
fewer kernels, and a CUDA graph launches all of them at once; both are made for one shape. So
batches are padded to buckets (`minbert.data.batches.bucket_of`), each bucket has its own graph, and
all graphs are compiled before training begins. Kernels use torch's own operators, which the
compiler fuses (`minbert.kernels.reference`); adapters keep their backward pass written by hand.
"""

import inspect
import os
import subprocess
import sysconfig
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from minbert.data.batches import Batch
from minbert.errors import InputError, is_out_of_memory
from minbert.training import COMPILES_FROM
from minbert.training.trainer import autocast

_MODES: Final = {"cuda": "reduce-overhead"}  # on a GPU CUDA graphs; elsewhere torch's default
_ROUNDS: Final = {"cuda": 3}
"""Steps on each bucket until nothing more is compiled: a CUDA graph is recorded in the second step
and launched from the third on. On other devices one step."""
_CACHEABLE: Final = {
    f"torch.amp.autocast_mode.{name}": "1" for name in ("_enter_autocast", "_exit_autocast")
}
"""Functions in our graphs with which torch by itself keeps none in the cache of AOTAutograd. Their
arguments are constants of the graph, and the digest that an entry is found by covers both them and
the autocast in force."""


_TOO_LARGE: Final = "out of resource"
"""In the message of triton's OutOfResources, also where torch repeats it."""


class NoCompilerError(InputError):
    """A compiler that can't be used here: it is missing, or torch or the GPU is too old for it."""


class CompiledModel:
    """Maps a batch to logits, as the model does: full batches by compiled code, and smaller ones,
    such as an epoch's last, by the model itself. A batch of another length fails: nothing is
    compiled during training, and no full batch runs uncompiled.

    Args:
        texts, lengths: B of a full batch, and the buckets, S of the batches, each with a graph.

    Attributes:
        cached: the share of its graphs whose code came from the compiler's cache; None without one.
    """

    cached: float | None = None

    def __init__(self, model: nn.Module, texts: int, lengths: Collection[int]) -> None:
        self.texts = texts
        self.lengths = tuple(sorted(set(lengths), reverse=True))
        self._model = model
        self._device = next(model.parameters()).device
        compiler: Any = torch.compile  # its types lack the last two
        self._run = compiler(
            model,
            fullgraph=True,
            dynamic=False,
            mode=_MODES.get(self._device.type, "default"),
            recompile_limit=len(self.lengths),
            isolate_recompiles=True,
        )

    def __call__(self, batch: Batch) -> Tensor:
        tensors = batch.input_ids, batch.attention_mask, batch.token_type_ids
        if len(batch.input_ids) < self.texts:
            return self._model(*tensors)
        logits: Tensor = self._run(*tensors)
        # a CUDA graph's result is overwritten when the graph is launched again
        return logits.clone() if self._device.type == "cuda" else logits

    def rehearse(self, amp: str) -> None:
        """Run forward and backward passes on a batch of each bucket, until nothing is left to
        compile; only the random number generators change. The longest comes first: the memory of
        its CUDA graph serves the shorter ones."""
        for _ in range(_ROUNDS.get(self._device.type, 1)):
            for length in self.lengths:
                run_passes(self, self._model, self.texts, length, amp)


def run_passes(
    forward: Callable[[Batch], Tensor], model: nn.Module, texts: int, length: int, amp: str
) -> None:
    """Run a forward and a backward pass on a batch of a shape, which leaves no gradients."""
    device = next(model.parameters()).device
    ids = torch.zeros((texts, length), dtype=torch.int64, device=device)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], ids.numel())
    model.train()
    with autocast(amp, device):
        logits = forward(batch)
    torch.autograd.backward(logits, torch.ones_like(logits))
    for parameter in model.parameters():
        parameter.grad = None


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Errors of compiling, in the block, as an InputError of a line, or NoCompilerError without a
    compiler. Errors for a lack of memory stay as they are."""
    from torch._dynamo.exc import TorchDynamoException  # not before: it takes seconds
    from torch._inductor.runtime.triton_compat import OutOfResources

    try:
        yield
    except (
        TorchDynamoException,
        # triton builds its launcher with the first kernel
        subprocess.CalledProcessError,
        FileNotFoundError,
        RuntimeError,
        MemoryError,
        OutOfResources,
    ) as error:
        inner = getattr(error, "inner_exception", error)
        if is_out_of_memory(inner):
            raise inner from None  # as without compiling
        if _TOO_LARGE in str(inner):
            raise InputError(
                f"compile: a kernel that torch made does not fit on this GPU ({inner}); leave "
                "compile out"
            ) from error
        lines = str(inner).strip().splitlines() or [type(inner).__name__]
        # a traceback comes from another process
        reason = lines[-1] if "Traceback (most recent call last):" in lines else lines[0]
        kind = NoCompilerError if _is_missing(inner, reason) else InputError
        raise kind(
            f"compile: torch can't compile the model ({reason}); it needs a C++ compiler, "
            "and on a GPU triton, a C compiler and Python.h: install them, or leave compile out"
        ) from error


def compile_model(
    model: nn.Module, *, texts: int, lengths: Collection[int], amp: str
) -> CompiledModel:
    """A model whose forward and backward passes are compiled for all buckets; it is on its device
    and without gradients, with its trainable parameters chosen.

    Code of the same graphs is taken from the compiler's cache, in TORCHINDUCTOR_CACHE_DIR, and only
    traced anew: also that of adapters, which torch by itself would not keep whole. Errors as of
    `errors_in_a_line`; InputError also if torch makes no CUDA graph of a part.
    """
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise NoCompilerError(
            f"compile: the compiler of torch {torch.__version__} is too old for it; install torch "
            f"{'.'.join(map(str, COMPILES_FROM))} or newer, or leave compile out"
        )
    from torch._dynamo.utils import counters  # not before: it takes seconds
    from torch._functorch import config as autograd_config
    from torch._inductor import config as inductor_config

    before = counters["inductor"].copy()
    with (
        errors_in_a_line(),
        autograd_config.patch(autograd_cache_allow_custom_autograd_functions=True),
        inductor_config.patch(unsafe_marked_cacheable_functions=_CACHEABLE),
    ):
        compiled = CompiledModel(model, texts, lengths)
        compiled.rehearse(amp)
    made = counters["inductor"] - before
    if made["cudagraph_skips"]:
        raise InputError(
            "compile: torch made no CUDA graph of a part of the model (TORCH_LOGS=cudagraphs in "
            "the environment says why); leave compile out"
        )
    hits, misses, bypasses = (made[f"fxgraph_cache_{n}"] for n in ("hit", "miss", "bypass"))
    if graphs := hits + misses + bypasses:
        compiled.cached = hits / graphs
    return compiled


def _is_missing(error: BaseException, reason: str) -> bool:
    from torch._inductor import exc

    if isinstance(error, subprocess.CalledProcessError | exc.CppCompileError):
        return not Path(sysconfig.get_path("include"), "Python.h").exists()
    if isinstance(error, FileNotFoundError):
        return error.filename in (os.environ.get("CC"), os.environ.get("CXX"))
    none = exc.InvalidCxxCompiler, exc.TritonMissing, exc.GPUTooOldForTriton
    return isinstance(error, none) or "Failed to find C compiler" in reason
