"""Compiled training steps: the losses of plain steps, with dropout on average, and nothing compiled
later."""

import math
import os
from dataclasses import replace
from typing import Final

import torch

from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
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
TOLERANCE: Final = 1e-4
"""Relative, in fp32: fused kernels sum in another order, which gives 1e-6; the test of gradients
allows 1e-3."""
STEPS: Final = 40
ERRORS: Final = 5.0
"""Standard errors by which mean losses of 40 steps may differ under dropout, whose random numbers
are others in compiled code; 2% more, for bf16."""
_ROUNDING: Final = 0.02
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
        return Finding(FAILED, str(error), "leave compile out here, and report this")
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
    summary = f"losses of {graphs} compiled buckets deviate from plain torch by {deviation:.1g}"
    remedy = "leave compile out here, and report this"
    if not deviation <= TOLERANCE:
        return Finding(FAILED, f"{summary}, at most {TOLERANCE:g}", remedy, figures)
    if later or graphs != len(BUCKETS):
        summary = (
            f"{graphs} graphs were compiled for {len(BUCKETS)} buckets, and {later} more in steps, "
            "whose times include that"
        )
        return Finding(FAILED, summary, remedy, figures)
    if not abs(one - other) <= ERRORS * error + _ROUNDING * other or len(set(dropped[0])) == 1:
        summary = f"with dropout the mean loss of compiled steps is {one:.4g}, not {other:.4g}"
        return Finding(FAILED, summary, remedy, figures)
    return Finding(OK, f"{summary}, and nothing is compiled in steps", figures=figures)


def _graphs() -> int:
    """Graphs that this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
