"""A typical script around transformers' Trainer, from process start to dev score."""

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

from bench.peers.baseline import adamw, load_model, parameter_groups
from bench.peers.request import Request
from bench.plan.job import Job
from bench.results.protocol import PREDICTIONS
from bench.worker.setup import examples, load_examples, standard
from minbert.data.metrics import score
from minbert.data.tasks import Examples, TaskData
from minbert.training.trainer import MAX_GRADIENT_NORM

_HALF: Final = ("bf16", "fp16")
_OUTPUT: Final = "trainer"

OnStep = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""


class Encoded(Dataset[dict[str, Any]]):
    """Examples encoded by a tokenizer of transformers, one dictionary each."""

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


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Reports each training step."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._on_step(int(state.global_step), int(state.max_steps))


def run(job: Job, request: Request, folder: Path, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train a cell and score it on dev after each epoch, by a Trainer with its own defaults.

    Examples that the cell holds out of training are left out here too. The last dev predictions
    are written as a cell writes them.

    Args:
        folder: the folder for the predictions and the Trainer's own files.
    """
    cell, data = job.cell, load_examples(job).pieces()[""]
    transformers.set_seed(cell.seed)
    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint)
    train_labels, dev_labels = _targets(data)
    indices = _training_indices(job, len(data.train))
    labels = [train_labels[index] for index in indices]
    train = Encoded(data.train.taken(indices), labels, tokenizer, cell.max_length)
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
        warmup_steps=max(1, round(steps * cell.warmup)),  # in the form that all versions accept
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

    def compute_score(evaluation: Any) -> dict[str, float]:
        nonlocal logits
        logits = _logits(evaluation.predictions)
        return {"score": float(score(data.task.metric, logits, data.dev.labels) or 0.0)}

    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_score,
        optimizers=(adamw(parameter_groups(model, cell, request.new_pooler)), None),
        callbacks=[] if on_step is None else [StepCallback(on_step)],
    )
    trainer.train()
    scores = [entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry]
    save_file({"logits": logits, "labels": data.dev.labels}, folder / PREDICTIONS)
    return {
        "dev_metric": data.task.metric,
        "dev_score": scores[-1],
        "steps": int(trainer.state.global_step),
    }


def _training_indices(job: Job, count: int) -> list[int]:
    """Indices of `count` training examples, without those that the cell holds out."""
    if not job.cell.held_out:
        return list(range(count))
    train, _ = examples(job)[""]
    indices: list[int] = train.texts[0].held_out(job.cell.held_out)[0].tolist()
    return indices


def _logits(predictions: Any) -> NDArray[np.float32]:
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return np.ascontiguousarray(logits, dtype=np.float32)


def _targets(data: TaskData) -> tuple[Any, Any]:
    """Labels of train and dev, standardised for regression as ours are."""
    train, dev = data.train.labels, data.dev.labels
    if data.task.kind != "regression":
        return train.tolist(), dev.tolist()
    mean, std = standard(train)
    return ((train - mean) / std).tolist(), ((dev - mean) / std).tolist()
