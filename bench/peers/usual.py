"""The script that users write around transformers' Trainer, from process start to dev score."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import transformers
from torch.utils.data import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

from bench.job import Job
from bench.peers.request import Request
from bench.peers.theirs import adamw, load_model, parameter_groups
from bench.worker.setup import load_data
from minbert.scores import score
from minbert.tasks import Examples, TaskData
from minbert.training import MAX_GRADIENT_NORM

_HALF: Final = ("bf16", "fp16")


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


def run(job: Job, request: Request, output: Path) -> dict[str, Any]:
    """Train a cell and score it on dev after each epoch, by a Trainer with its own defaults.

    Args:
        output: a folder that the Trainer may write to.
    """
    cell, data = job.cell, load_data(job)
    transformers.set_seed(cell.seed)
    tokenizer = AutoTokenizer.from_pretrained(request.checkpoint)
    train_labels, dev_labels = _targets(data)
    train = Encoded(data.train, train_labels, tokenizer, cell.max_length)
    dev = Encoded(data.dev, dev_labels, tokenizer, cell.max_length)
    model = load_model(job, request, data.task)
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=cell.batch_size,
        per_device_eval_batch_size=cell.batch_size,
        num_train_epochs=cell.epochs,
        max_steps=cell.max_steps or -1,
        lr_scheduler_type="linear",
        max_grad_norm=MAX_GRADIENT_NORM,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
        seed=cell.seed,
        label_names=["labels"],
        **_warmup(cell.warmup, cell.max_steps),
        **{half: cell.amp == half for half in _HALF},
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"score": _score(data, found.predictions)},
        optimizers=(adamw(parameter_groups(model, cell, request.new_pooler)), None),
    )
    trainer.train()
    scores = [entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry]
    return {
        "dev_metric": data.task.metric,
        "dev_score": scores[-1],
        "steps": int(trainer.state.global_step),
    }


def _score(data: TaskData, predictions: Any) -> float:
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return float(score(data.task.metric, np.asarray(logits), data.dev.labels) or 0.0)


def _targets(data: TaskData) -> tuple[Any, Any]:
    """Labels of train and dev; those of a regression standardised as ours are."""
    train, dev = data.train.labels, data.dev.labels
    if data.task.kind != "regression":
        return train.tolist(), dev.tolist()
    mean, deviation = float(np.mean(train)), float(np.std(train)) or 1.0
    return ((train - mean) / deviation).tolist(), ((dev - mean) / deviation).tolist()


def _warmup(share: float, steps: int | None) -> dict[str, Any]:
    """The argument for the warm-up: in steps, which every version of the library takes."""
    return {"warmup_steps": max(1, round((steps or 0) * share))}
