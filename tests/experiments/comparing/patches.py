"""Changes of the measured code. Without imports of their own: Python loads this before all else."""

from tests.experiments.doctor.patches import of


@of("minbert.model.encoder", "Layer.forward")
def more_work(forward, layer, x, *args):
    """Each layer of the encoder computes a product more, of 5% of its products in a step."""
    import torch

    largest = max(layer.parameters(), key=lambda parameter: parameter.numel())
    passes = 1  # forward, then gradients of its input, then those of its weights
    if torch.is_grad_enabled():
        trains = any(parameter.requires_grad for parameter in layer.parameters())
        passes += (x.requires_grad or trains) + largest.requires_grad
    wide, hidden = layer.intermediate.dense.weight.shape
    x.detach() @ x.new_ones(hidden, round(0.05 * passes * (4 * hidden + 2 * wide)))
    return forward(layer, x, *args)


@of("minbert.training.trainer", "Trainer.step")
def slower_step(step, trainer, batch):
    """Each training step takes 10% longer: it waits for a tenth of its own time."""
    import time

    begin = time.perf_counter()
    taken = step(trainer, batch)
    end = time.perf_counter()
    while time.perf_counter() - end < 0.1 * (end - begin):
        pass
    return taken
