"""Training of every encoder architecture by every method on a task that shows whether both work:
the class of a text is which of five words it has."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench.engines.engine import engine_of
from bench.examples.tokenizers import tokenizer_of
from bench.plan.job import Job
from bench.worker.setup import Split, trained_groups
from minbert.data.batches import collate, plan_epoch
from minbert.model.classifier import Classifier
from minbert.training.evaluation import predict
from minbert.training.losses import CROSS_ENTROPY
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer

PLANTED: Final = ("film", "story", "life", "comedy", "actor")
FILLERS: Final = ("the", "of", "and", "to", "in")
TRAINED, ASKED = 640, 320


def planted(job: Job, count: int, seed: int) -> Split:
    """Examples of the task, tokenised for a job."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(PLANTED))
    texts = []
    for label in labels:
        words = list(rng.choice(FILLERS, rng.integers(1, 4)))
        words.insert(int(rng.integers(len(words) + 1)), PLANTED[label])
        texts.append(" ".join(words))
    tokenizer = tokenizer_of(job.cell.engine, Path(job.tokenizer))
    encoded = tokenizer.encode(texts, None, job.cell.max_length)
    return Split((encoded,), labels, labels, CROSS_ENTROPY)


def train(job: Job, steps: int) -> tuple[Classifier, float, list[float]]:
    """A model after some steps on the task, its accuracy on other examples, and its losses."""
    cell, device = job.cell, torch.device("cpu")
    split, dev = planted(job, TRAINED, 0), planted(job, ASKED, 1)
    torch.manual_seed(cell.seed)
    model = engine_of(cell).build(job)
    trainer = Trainer(
        model,
        trained_groups(model, cell),
        losses={"": CROSS_ENTROPY},
        schedule=schedule_of("linear", steps, cell.warmup, steps),
        amp=cell.amp,
        device=device,
    )

    def batches() -> Iterator[Any]:
        for epoch in range(steps):
            rng = np.random.default_rng([cell.seed, epoch])
            for _, indices in plan_epoch({"": split.lengths}, cell.batch_size, rng):
                yield collate(split.texts, split.targets, indices, model.pad_id, device, None, "")

    losses = [float(trainer.step(batch)[0]) for batch in islice(batches(), steps)]
    logits = predict(
        model, dev.texts, batch_size=160, amp=cell.amp, pad_id=model.pad_id, device=device
    )
    return model, float((logits.argmax(axis=1) == dev.labels).mean()), losses
