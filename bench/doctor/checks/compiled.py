"""Compiled steps: the losses of plain ones, also with dropout, and nothing compiled later."""

import math
import os
from dataclasses import replace
from typing import Final

import torch

from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.doctor.models import CONFIG, small_batch, small_model, small_trainer
from minbert.errors import InputError
from minbert.kernels.reference import REFERENCE, kernels
from minbert.model.config import BertConfig
from minbert.training.compiled import NoCompilerError, compile_model
from minbert.training.trainer import Trainer

_ONE_LAYER: Final = replace(CONFIG, num_hidden_layers=1)
_DROPS: Final = replace(
    CONFIG, num_hidden_layers=3, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
)
TEXTS: Final = 4
BUCKETS: Final = (8, 16)
LENGTHS: Final = (8, 16, 16, 8)
STEPS: Final = 40
CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def check(context: Context) -> Finding:
    """Compile LoRA on a model of one layer, and on one of three with AMP and dropout, with an empty
    cache, and take steps with them."""
    os.environ.update({name: str(context.folder / name.lower()) for name in CACHES})
    try:
        trainer, graphs = _compiled(context, _ONE_LAYER, "off", BUCKETS)
        before = _graphs()
        losses = [float(trainer.step(small_batch(TEXTS, n, context.device))[0]) for n in LENGTHS]
        later = _graphs() - before
        drops, _ = _compiled(context, _DROPS, context.amp_on, BUCKETS[-1:])
    except NoCompilerError as error:
        raise SkipError(str(error)) from error
    except InputError as error:
        return judged("compiled", {}, {"error": error})
    with kernels(REFERENCE):
        model = small_model("lora", "attn-only", context.device, _ONE_LAYER)
        trainer = small_trainer(model, "off")
        plain = [float(trainer.step(small_batch(TEXTS, n, context.device))[0]) for n in LENGTHS]
        model = small_model("lora", "attn-only", context.device, _DROPS)
        dropped = _at_rest(small_trainer(model, context.amp_on), context.device)
    # steps that compile again would take minutes
    compiled = _at_rest(drops, context.device) if not later else dropped
    return judge(losses, plain, graphs, later, (compiled, dropped))


def _compiled(
    context: Context, config: BertConfig, amp: str, lengths: tuple[int, ...]
) -> tuple[Trainer, int]:
    """A trainer of compiled steps, and the number of graphs that were compiled for it."""
    before = _graphs()
    model = small_model("lora", "attn-only", context.device, config)
    compiled = compile_model(model, texts=TEXTS, lengths=lengths, amp=amp)
    return small_trainer(model, amp, compiled), _graphs() - before


def _at_rest(trainer: Trainer, device: str) -> list[float]:
    """Losses of steps that change no weight, so that they differ by their dropout alone."""
    trainer.rest()
    batch = small_batch(TEXTS, BUCKETS[-1], device)
    return [float(trainer.step(batch)[0]) for _ in range(STEPS)]


def judge(
    losses: list[float],
    plain: list[float],
    graphs: int,
    later: int,
    dropped: tuple[list[float], list[float]],
) -> Finding:
    """The finding from losses of compiled and of plain steps, the numbers of graphs that were
    compiled before and during the former, and such losses under dropout at fixed weights."""
    deviation = max(abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True))
    every = torch.tensor(dropped, dtype=torch.float64)
    one, other = every.mean(1).tolist()
    error = float((every.std(1) / math.sqrt(STEPS)).norm())
    figures = {
        "deviation": deviation, "graphs": graphs, "graphs_compiled_later": later,
        "loss_with_dropout": one, "plain_loss_with_dropout": other, "standard_error": error,
    }  # fmt: skip
    limits = BY_NAME["compiled"].limits
    is_same = abs(one - other) <= limits["errors"] * error + limits["rounding"] * other
    failures = {
        "losses": not deviation <= limits["deviation"],
        "graphs": later or graphs != len(BUCKETS),
        "dropout": not is_same or len(set(dropped[0])) == 1,
    }
    return judged(
        "compiled", figures, failures, tolerance=limits["deviation"], buckets=len(BUCKETS)
    )


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
