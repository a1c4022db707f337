"""The script that users write around transformers' Trainer, from process start to dev score."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import transformers
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.utils.data import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.peers.request import Request
from bench.peers.theirs import adamw, load_model, parameter_groups
from bench.plan.job import Job
from bench.results.protocol import PREDICTIONS
from bench.worker.setup import examples, load_examples, standard
from minbert.data.metrics import score
from minbert.data.tasks import Examples, TaskData
from minbert.training.trainer import MAX_GRADIENT_NORM

_HALF: Final = ("bf16", "fp16")
_OUTPUT: Final = "trainer"

OnStep = Callable[[int, int], None]
"""Told how many steps are done, and of how many."""


class Encoded(Dataset[dict[str, Any]]):
    """Examples as a tokenizer of transformers gives them, one dictionary each."""

    def __init__(self, examples: Examples, labels: Any, tokenizer: Any, max_length: int) -> None:
        pairs = None if examples.text_b is None else list(examples.text_b)
        self._encoded = tokenizer(
            list(examples.text_a), pairs, truncation=True, max_length=max_length
        )
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: values[index] for name, values in self._encoded.items()}
        return item | {"labels": self._labels[index]}


class Steps(TrainerCallback):  # type: ignore[misc]
    """Tells of each training step."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """As the Trainer calls it."""
        self._on_step(int(state.global_step), int(state.max_steps))


def run(job: Job, request: Request, folder: Path, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train a cell and score it on dev after each epoch, by a Trainer with its own defaults.

    What the cell holds out of training is left out here too. The last dev predictions are kept as a
    cell keeps them.

    Args:
        folder: takes these, and the Trainer's own files below it.
    """
    cell, data = job.cell, load_examples(job).pieces()[""]
    transformers.set_seed(cell.seed)
    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint)
    train_labels, dev_labels = _targets(data)
    kept = _trained_on(job, len(data.train))
    labels = [train_labels[index] for index in kept]
    train = Encoded(data.train.taken(kept), labels, tokenizer, cell.max_length)
    dev = Encoded(data.dev, dev_labels, tokenizer, cell.max_length)
    model = load_model(job, request, data.task)
    steps = cell.epochs * math.ceil(len(train) / cell.batch_size)
    steps = steps if cell.max_steps is None else min(steps, cell.max_steps)
    arguments = TrainingArguments(
        output_dir=str(folder / _OUTPUT),
        per_device_train_batch_size=cell.batch_size,
        per_device_eval_batch_size=cell.batch_size,
        num_train_epochs=cell.epochs,
        max_steps=steps,
        lr_scheduler_type="linear",
        warmup_steps=max(1, round(steps * cell.warmup)),  # as all versions take it
        max_grad_norm=MAX_GRADIENT_NORM,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
        seed=cell.seed,
        label_names=["labels"],
        **{half: cell.amp == half for half in _HALF},
    )
    logits = np.empty((0, data.task.num_outputs), dtype=np.float32)

    def scored(found: Any) -> dict[str, float]:
        nonlocal logits
        logits = _logits(found.predictions)
        return {"score": float(score(data.task.metric, logits, data.dev.labels) or 0.0)}

    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=scored,
        optimizers=(adamw(parameter_groups(model, cell, request.new_pooler)), None),
        callbacks=[] if on_step is None else [Steps(on_step)],
    )
    trainer.train()
    scores = [entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry]
    save_file({"logits": logits, "labels": data.dev.labels}, folder / PREDICTIONS)
    return {
        "dev_metric": data.task.metric,
        "dev_score": scores[-1],
        "steps": int(trainer.state.global_step),
    }


def _trained_on(job: Job, count: int) -> list[int]:
    """Indices of the training examples, `count` in all, without those that the cell holds out."""
    if not job.cell.held_out:
        return list(range(count))
    train, _ = examples(job)[""]
    kept: list[int] = train.texts[0].held_out(job.cell.held_out)[0].tolist()
    return kept


def _logits(predictions: Any) -> NDArray[np.float32]:
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return np.ascontiguousarray(logits, dtype=np.float32)


def _targets(data: TaskData) -> tuple[Any, Any]:
    """Labels of train and dev; those of a regression standardised as ours are."""
    train, dev = data.train.labels, data.dev.labels
    if data.task.kind != "regression":
        return train.tolist(), dev.tolist()
    mean, std = standard(train)
    return ((train - mean) / std).tolist(), ((dev - mean) / std).tolist()
