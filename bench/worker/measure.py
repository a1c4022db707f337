"""What is measured on the trained model: a panel of batches for time, the largest for memory."""

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
from bench.worker.record import write_machine, write_panel
from minbert.data.batches import Batch
from minbert.training.trainer import Trainer, autocast, logits_of

PANEL_SHARE: Final = 0.15
"""Of the training's time: what the panel may take beyond the passes that it needs at least."""


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
    """Time training steps on a panel of batches; flags for what makes the times doubtful.

    For a training too short to show its own step times.

    Training is over: the schedule's rate is zero, so that a step does all its work and changes no
    weight. Times go to the folder, with what the machine did meanwhile.

    Args:
        take_step: a training step on a batch, by the trainer.

    Raises:
        RuntimeError: if the rate is not zero.
    """
    if any(group["lr"] != 0 for group in trainer.optimizer.param_groups):
        raise RuntimeError("the steps of a panel would train: the learning rate is not zero")
    with MachineWatch(gpu) as machine:

        def heard(done: int) -> None:
            if done % len(chosen) == 0:
                machine.look()
            on_step(done)

        found = panel.replay(
            take_step, chosen, trainer.device, budget_s=PANEL_SHARE * train_s, on_step=heard
        )
    write_panel(folder, found)
    write_machine(folder, machine.report)
    return list(machine.doubts)


def measure_activations(trainer: Trainer, largest: Batch) -> Row:
    """What the forward pass of the largest batch keeps for its backward pass; nothing where there
    is no memory for it: a cell that has trained has not run out of memory.

    For the figure only: nothing is trained. Gradients are dropped before, since a training step's
    forward pass has none of them beside what it keeps.
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
