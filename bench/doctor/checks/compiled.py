"""Compiled training steps on two buckets: the losses of plain steps, and nothing compiled later."""

import os
from dataclasses import replace
from typing import Final

from bench.doctor.check import FAILED, OK, Context, Finding, SkipError
from bench.doctor.models import CONFIG, small_batch, small_model, small_trainer
from minbert.errors import InputError
from minbert.kernels.reference import REFERENCE, kernels
from minbert.training.compiled import NoCompilerError, compile_model

_ONE_LAYER: Final = replace(CONFIG, num_hidden_layers=1)
TEXTS: Final = 4
BUCKETS: Final = (8, 16)
LENGTHS: Final = (8, 16, 16, 8)
TOLERANCE: Final = 1e-4
"""Relative, in fp32: fused kernels sum in another order, which gives 1e-6; the test of gradients
allows 1e-3."""
_CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def check(context: Context) -> Finding:
    """Compile a model of one layer with LoRA, with an empty cache, and take steps with it."""
    os.environ.update({name: str(context.folder / name.lower()) for name in _CACHES})
    model = small_model("lora", "attn-only", context.device, _ONE_LAYER)
    try:
        compiled = compile_model(model, texts=TEXTS, lengths=BUCKETS, amp="off")
    except NoCompilerError as error:
        raise SkipError(str(error)) from error
    except InputError as error:
        return Finding(FAILED, str(error), "leave compile out here, and report this")
    graphs = _graphs()
    trainer = small_trainer(model, "off", compiled)
    losses = [float(trainer.step(small_batch(TEXTS, n, context.device))[0]) for n in LENGTHS]
    later = _graphs() - graphs
    with kernels(REFERENCE):
        trainer = small_trainer(small_model("lora", "attn-only", context.device, _ONE_LAYER), "off")
        plain = [float(trainer.step(small_batch(TEXTS, n, context.device))[0]) for n in LENGTHS]
    return judge(losses, plain, graphs, later)


def judge(losses: list[float], plain: list[float], graphs: int, later: int) -> Finding:
    """The finding from losses of compiled and of plain steps, and the numbers of graphs that were
    compiled before and during the former."""
    deviation = max(abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True))
    figures = {"deviation": deviation, "graphs": graphs, "graphs_compiled_later": later}
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
    return Finding(OK, f"{summary}, and nothing is compiled in steps", figures=figures)


def _graphs() -> int:
    """Graphs that this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
