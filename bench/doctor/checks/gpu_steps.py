"""Training steps on a GPU: whether they wait for it, and how much of their time it works."""

import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench.doctor import models
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.worker.device import HostCopies
from bench.worker.probes.counting import Counter
from bench.worker.probes.steps import StepClock
from minbert.data.batches import collate
from minbert.data.encoded import Encoded
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import Trainer

_WARM_UP, _CHECKED = 2, 2
"""Steps, and those before them: libraries synchronise when they are first used."""
_TEXTS: Final = 16
_ROOT: Final = Path(__file__).parents[3]

GEOMETRY: Final = "minilm"
TEXTS, LONGEST = 64, 24
"""Of a batch, and tokens of the longest text, as in a batch of short sentences."""
STEPS: Final = 20


def synchronisation(context: Context) -> Finding:
    """Take steps of each setting as a worker does, with torch raising an error at each wait."""
    device = torch.device(context.device)
    waits: dict[str, str] = {}
    settings = [(*setting, MINBERT) for setting in models.SETTINGS]
    if find_spec("transformers"):
        settings.append((*models.SETTINGS[-1], TRANSFORMERS))
    every = [(*setting, amp) for setting in settings for amp in context.amps]
    for mode, layers, engine, amp in every:
        if engine == MINBERT:
            trainer = models.small_trainer(models.small_model(mode, layers, context.device), amp)
        else:
            trainer = models.cell_trainer(
                context.device, mode, layers, amp, "bert-tiny", engine=engine
            )
        try:
            _steps(trainer, device)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            named = engine if engine == TRANSFORMERS else None
            waits[" ".join(filter(None, (mode, layers, f"amp {amp}", named)))] = _place(error)
    setting, place = next(iter(waits.items()), ("", ""))
    figures = {"settings": len(every), "waits": waits}
    return judged(
        "synchronisation", figures, {"waits": waits}, waiting=len(waits), setting=setting,
        place=place,
    )  # fmt: skip


def _steps(trainer: Trainer, device: torch.device) -> None:
    """Copy batches to the GPU, take steps on them, time these and keep their losses."""
    offsets = np.concatenate([[0], np.cumsum(np.arange(_TEXTS) + 5)])  # so that batches have a mask
    ids = np.random.default_rng(0).integers(
        1, models.CONFIG.vocab_size, offsets[-1], dtype=np.int32
    )
    texts, labels = Encoded(ids, np.zeros_like(ids, np.int8), offsets), np.arange(_TEXTS) % 3
    clock, losses = StepClock(device), HostCopies(device)
    trainer.mark = clock.mark

    def step() -> None:
        batch = collate([texts], labels, np.arange(_TEXTS), models.CONFIG.pad_token_id, device)
        with clock.step(batch):
            loss, _ = trainer.step(batch)
        losses.keep(loss)

    for _ in range(_WARM_UP):
        step()
    with models.waiting_is_an_error(device):
        for _ in range(_CHECKED):
            step()


def _place(error: BaseException) -> str:
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(_ROOT) and "site-packages" not in frame.filename
    ]
    return f"{Path(own[-1].filename).relative_to(_ROOT)}:{own[-1].lineno}"


def load(context: Context) -> Finding:
    """Time steps of LoRA by both kernels, count their operators, and profile some."""
    batch = models.small_batch(TEXTS, LONGEST, context.device)
    step_ms = {}
    for path in (REFERENCE, FAST):
        model = models.small_model("lora", "all-lin-only", context.device, GEOMETRIES[GEOMETRY])
        trainer = models.small_trainer(model, context.amp_on)
        with kernels(path):
            trainer.step(batch)
            step_ms[path] = models.median_ms(trainer, batch, STEPS)
    with Counter() as counter:
        trainer.step(batch)
    launched = models.kernels_of(lambda: trainer.step(batch), torch.device(context.device))
    if not launched:
        raise SkipError("the profiler sees no kernels: the driver allows counters to root alone")
    busy_ms = sum(ms for _, ms in launched)
    counted = counter.work.kernels
    return judge_load(step_ms[FAST], len(launched), busy_ms, counted, step_ms[REFERENCE])


def judge_load(
    step_ms: float, launched: int, busy_ms: float, counted: int, reference_ms: float
) -> Finding:
    """The finding on a step that launches kernels, which take `busy_ms`, and counts operators."""
    busy, ratio = min(1.0, busy_ms / step_ms), launched / max(1, counted)
    limits = BY_NAME["gpu-load"].limits
    is_launch_bound = busy < limits["launch_bound"]
    figures: dict[str, Any] = {
        "step_ms": step_ms, "reference_ms": reference_ms, "kernels": launched,
        "kernels_ms": busy_ms, "operators_counted": counted, "busy_share": busy,
        "is_launch_bound": is_launch_bound,
    }  # fmt: skip
    failures = {
        "kernels": not limits["least_per_operator"] <= ratio <= limits["most_per_operator"],
        "slower": step_ms > limits["slower"] * reference_ms,
    }
    limit = "limits it, and compile = true can pay" if is_launch_bound else "does not limit it"
    return judged("gpu-load", figures, failures, geometry=GEOMETRY, limit=limit)
