"""A model's forward and backward pass by torch.compile, for the few shapes of its batches.

On a GPU the time of a step of a small encoder is that of launching its kernels. Compiled code has
fewer kernels, and a CUDA graph launches all of them at once; both are made for one shape. So
batches are padded to buckets (`minbert.data.batches.Buckets`), every bucket has a graph of its own,
and all graphs are compiled before training begins. Kernels use torch's own operators, which the
compiler fuses (`minbert.kernels.reference`); adapters keep their backward pass written by hand.
"""

import inspect
import subprocess
from collections.abc import Collection
from typing import Any, Final

import torch
from torch import Tensor, nn

from minbert.data.batches import Batch
from minbert.errors import InputError
from minbert.training.trainer import autocast

_MODES: Final = {"cuda": "reduce-overhead"}
"""On a GPU CUDA graphs; elsewhere torch's default."""
_ROUNDS: Final = {"cuda": 3}
"""Steps on each bucket until nothing more is compiled: a CUDA graph is recorded in the second step
and launched from the third on. On other devices one step."""
_ISOLATED: Final = "isolate_recompiles"
"""The argument of torch.compile that gives each model a limit of its own on its number of graphs,
and the first release that has it."""
_NEEDED: Final = "2.13"
_NO_MEMORY: Final = ("out of memory", "can't allocate memory")
"""In the message of any failed allocation: by torch, triton or the driver."""


def mode_of(device: torch.device) -> str:
    """The mode of torch.compile on a device."""
    return _MODES.get(device.type, "default")


class CompiledModel:
    """Maps a batch to logits, as the model does: full batches by compiled code, and smaller ones,
    such as an epoch's last, by the model itself.

    It has one graph for each bucket. A batch of another length fails: nothing is compiled during
    training, and no full batch runs uncompiled.

    Args:
        model: maps a batch's tensors to logits.
        texts: B of a full batch.
        lengths: the buckets, S of the batches.
    """

    def __init__(self, model: nn.Module, texts: int, lengths: Collection[int]) -> None:
        self.texts = texts
        self.lengths = tuple(sorted(set(lengths)))
        self._model = model
        self._device = next(model.parameters()).device
        compiler: Any = torch.compile  # its types lack the last two
        self._run = compiler(
            model,
            fullgraph=True,
            dynamic=False,
            mode=mode_of(self._device),
            recompile_limit=len(self.lengths),
            isolate_recompiles=True,
        )

    def __call__(self, batch: Batch) -> Tensor:
        """Logits [B, num_outputs]."""
        tensors = batch.input_ids, batch.attention_mask, batch.token_type_ids
        if len(batch.input_ids) < self.texts:
            small: Tensor = self._model(*tensors)
            return small
        logits: Tensor = self._run(*tensors)
        # a CUDA graph's result is overwritten when the graph is launched again
        return logits.clone() if self._device.type == "cuda" else logits

    def rehearse(self, amp: str) -> None:
        """Run forward and backward passes on a batch of each bucket, until nothing is left to
        compile.

        This changes nothing but the state of the random number generators.
        """
        for _ in range(_ROUNDS.get(self._device.type, 1)):
            for length in self.lengths:
                self._run_passes(length, amp)

    def _run_passes(self, length: int, amp: str) -> None:
        ids = torch.zeros((self.texts, length), dtype=torch.int64, device=self._device)
        batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], ids.numel())
        self._model.train()
        with autocast(amp, self._device):
            logits = self(batch)
        torch.autograd.backward(logits, torch.ones_like(logits))
        for parameter in self._model.parameters():
            parameter.grad = None


def compile_model(
    model: nn.Module, *, texts: int, lengths: Collection[int], amp: str
) -> CompiledModel:
    """A model whose forward and backward passes are compiled for all buckets.

    Args:
        model: on its device and without gradients, with its trainable parameters chosen.
        texts, lengths: as of `CompiledModel`.
        amp: off, bf16 or fp16.

    Raises:
        InputError: if there is no compiler, it fails, or it makes no CUDA graph of a part.
        MemoryError, RuntimeError: if there is no memory left.
    """
    if _ISOLATED not in inspect.signature(torch.compile).parameters:
        raise InputError(
            f"compile: the compiler of torch {torch.__version__} is too old for it; install torch "
            f"{_NEEDED} or newer, or leave compile out"
        )
    from torch._dynamo.exc import TorchDynamoException  # not before: it takes seconds
    from torch._dynamo.utils import counters

    skipped = counters["inductor"]["cudagraph_skips"]
    try:
        compiled = CompiledModel(model, texts, lengths)
        compiled.rehearse(amp)
    except (
        TorchDynamoException,
        # triton builds its launcher with the first kernel
        subprocess.CalledProcessError,
        FileNotFoundError,
        RuntimeError,
    ) as error:
        inner = getattr(error, "inner_exception", error)
        if isinstance(inner, MemoryError) or any(sign in str(inner) for sign in _NO_MEMORY):
            raise inner from None  # as without compiling
        lines = str(inner).strip().splitlines() or [type(inner).__name__]
        # a traceback comes from another process
        reason = lines[-1] if "Traceback (most recent call last):" in lines else lines[0]
        raise InputError(
            f"compile: torch can't compile the model ({reason}); it needs a C++ compiler, "
            "and on a GPU triton, a C compiler and Python.h: install them, or leave compile out"
        ) from error
    if counters["inductor"]["cudagraph_skips"] > skipped:
        raise InputError(
            "compile: torch made no CUDA graph of a part of the model (TORCH_LOGS=cudagraphs in "
            "the environment says why); leave compile out"
        )
    return compiled
