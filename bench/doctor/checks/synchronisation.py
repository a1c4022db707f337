"""Training steps that never wait for the GPU."""

import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch

from bench.doctor.check import FAILED, OK, Context, Finding
from bench.doctor.models import (
    CONFIG,
    SETTINGS,
    job_of,
    small_model,
    small_trainer,
    trainer_of,
    waiting_is_an_error,
)
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.worker.device import HostCopies
from bench.worker.probes.steps import StepClock
from minbert.data.batches import collate
from minbert.data.encoded import Encoded
from minbert.training.trainer import Trainer

_WARM_UP: Final = 2
"""Steps before the ones that are checked: libraries synchronise when they are first used."""
_CHECKED: Final = 2
_TEXTS: Final = 16
_ROOT: Final = Path(__file__).parents[3]


def check(context: Context) -> Finding:
    """Take steps of each setting as a worker does, with torch raising an error at each wait."""
    device = torch.device(context.device)
    waits: dict[str, str] = {}
    settings = [
        (mode, layers, amp, engine)
        for engine in (MINBERT, *([TRANSFORMERS] if find_spec("transformers") else []))
        for mode, layers in (SETTINGS if engine == MINBERT else SETTINGS[-1:])
        for amp in context.amps
    ]
    for mode, layers, amp, engine in settings:
        named = engine if engine == TRANSFORMERS else None
        setting = " ".join(filter(None, (mode, layers, f"amp {amp}", named)))
        if engine == MINBERT:
            trainer = small_trainer(small_model(mode, layers, context.device), amp)
        else:
            trainer = trainer_of(
                job_of(context.device, mode, layers, amp, "bert-tiny", engine=engine)
            )
        try:
            _steps(trainer, device)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            waits[setting] = _place(error)
    figures = {"settings": len(settings), "waits": waits}
    if not waits:
        summary = f"no step of {figures['settings']} settings waits for the GPU"
        return Finding(OK, summary, figures=figures)
    first = next(iter(waits))
    summary = f"steps of {len(waits)} settings wait for the GPU, as {first} in {waits[first]}"
    remedy = "times of these settings include waiting, and no other result is wrong: report this"
    return Finding(FAILED, summary, remedy, figures)


def _steps(trainer: Trainer, device: torch.device) -> None:
    """Copy batches to the GPU, take steps on them, time these and keep their losses."""
    offsets = np.concatenate([[0], np.cumsum(np.arange(_TEXTS) + 5)])  # so that batches have a mask
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, offsets[-1], dtype=np.int32)
    texts, labels = Encoded(ids, np.zeros_like(ids, np.int8), offsets), np.arange(_TEXTS) % 3
    clock, losses = StepClock(device), HostCopies(device)
    trainer.mark = clock.mark

    def step() -> None:
        batch = collate([texts], labels, np.arange(_TEXTS), CONFIG.pad_token_id, device)
        with clock.step(batch):
            loss, _ = trainer.step(batch)
        losses.keep(loss)

    for _ in range(_WARM_UP):
        step()
    with waiting_is_an_error(device):
        for _ in range(_CHECKED):
            step()


def _place(error: BaseException) -> str:
    """The file and line of this project that waited."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(_ROOT) and "site-packages" not in frame.filename
    ]
    frame = own[-1]
    return f"{Path(frame.filename).relative_to(_ROOT)}:{frame.lineno}"
