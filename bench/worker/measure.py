"""Measurements on the trained model: step times on a few batches, and memory of activations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from bench.plan.cell import Row
from bench.worker.failures import is_out_of_memory
from bench.worker.probes import panel
from bench.worker.probes.gpu import Gpu
from bench.worker.probes.machine import MachineWatch
from bench.worker.probes.memory import SavedTensors
from bench.worker.saving import write_machine, write_panel
from minbert.data.batches import Batch
from minbert.training.trainer import Trainer, autocast, logits_of

PANEL_SHARE: Final = 0.15
"""Share of the training's time that timing may take beyond its minimum of passes."""


def measure_panel(
    trainer: Trainer,
    take_step: Callable[[Batch], object],
    chosen: Sequence[Batch],
    folder: Path,
    *,
    train_s: float,
    gpu: Gpu | None,
    on_step: Callable[[int], None],
) -> list[str]:
    """Time training steps on a few batches, and write the times to the folder, with a report on the
    machine.

    This is for a training too short to show its own step times. Training is over: its learning
    rate is zero, so that a step does all its work and changes no weight.

    Args:
        take_step: takes the trainer's training step on a batch.

    Returns:
        Flags that make the times doubtful.

    Raises:
        RuntimeError: if the rate is not zero.
    """
    if any(group["lr"] != 0 for group in trainer.optimizer.param_groups):
        raise RuntimeError("timing would train the model: the learning rate is not zero")
    with MachineWatch(gpu) as machine:

        def count_step(done: int) -> None:
            if done % len(chosen) == 0:
                machine.look()
            on_step(done)

        replayed = panel.replay(
            take_step, chosen, trainer.device, budget_s=PANEL_SHARE * train_s, on_step=count_step
        )
    write_panel(folder, replayed)
    write_machine(folder, machine.report)
    return list(machine.doubts)


def measure_activations(trainer: Trainer, largest: Batch) -> Row:
    """Memory that the forward pass of the largest batch keeps for its backward pass.

    Without enough memory for it the result is empty, since the training itself did succeed.
    Nothing is trained. Gradients are dropped first, as before the forward pass of a training step.
    """
    trainer.optimizer.zero_grad()
    saved = SavedTensors(trainer.model)
    trainer.model.train()
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            with saved.counting(), autocast(trainer.amp, trainer.device):
                logits = logits_of(trainer.model, largest)
            mib = saved.mib
            del logits
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {}
    return {"activations_mib": mib}
