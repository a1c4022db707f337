"""Changes of the measured code. Without imports of their own: Python loads this before all else."""

WORK = 0.05
DELAY = 0.1


def more_work(module):
    """Each layer of the encoder computes a product more, of 5% of its products in a step."""
    forward = module.Layer.forward

    def with_a_product(layer, x, *args):
        torch = module.torch
        weight = layer.intermediate.dense.weight
        largest = max(layer.parameters(), key=lambda parameter: parameter.numel())
        passes = 1  # forward, then gradients of its input, then those of its weights
        if torch.is_grad_enabled():
            trains = any(parameter.requires_grad for parameter in layer.parameters())
            passes += (x.requires_grad or trains) + largest.requires_grad
        wide, hidden = weight.shape
        count = round(WORK * passes * (4 * hidden + 2 * wide))
        x.detach() @ x.new_ones(hidden, count)
        return forward(layer, x, *args)

    module.Layer.forward = with_a_product


def slower_step(module):
    """Each training step takes 10% longer: it waits for a tenth of its own time."""
    import time

    step = module.Trainer.step

    def with_a_delay(trainer, batch):
        begin = time.perf_counter()
        taken = step(trainer, batch)
        end = time.perf_counter()
        while time.perf_counter() - end < DELAY * (end - begin):
            pass
        return taken

    module.Trainer.step = with_a_delay


more_work.module = "minbert.model.encoder"  # type: ignore[attr-defined]
slower_step.module = "minbert.training.trainer"  # type: ignore[attr-defined]
