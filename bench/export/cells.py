"""From a row of results to its trained model: by the weights that were kept, or trained again."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from adapters.methods import PEFT
from bench.common.errors import InputError, reading
from bench.common.files import open_tensors, read_file
from bench.common.messages import echo
from bench.export.trained import Base, Trained
from bench.forecast.client import lock_on
from bench.launch.again import train_again
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.rows import Row
from bench.results.kept import AGAIN
from bench.results.origins import data_folder, folder_of
from bench.results.predictions import outcome_of
from bench.results.protocol import PREDICTIONS, RESULT, WEIGHTS, parse_result
from bench.results.row import measured_row
from minbert.data.tasks import Folds, TaskData, load_task
from minbert.files import is_file

_OF_DATA: Final = ("cell_id", "data_digest", "max_train", "max_dev", "folds", "fold")
"""Columns that stay those of the cell after a refit."""
_SCORES: Final = ("dev_score", "dev_accuracy", "dev_ci_low", "dev_ci_high")
_EXACT: Final = 1e-4
"""The most by which logits in fp32 may differ from those of the training process."""
_HALF: Final = 0.02
"""The same for logits that were computed in half precision, whose mean square counts, as a share of
their std. Rounding to bf16 changes those of minilm by 0.004 of it."""
_HALF_OF_LARGEST: Final = 2.0**-8
"""And as a share of the largest, of which the last of bf16's 8 bits is as much."""


def find_trained(
    runs: Path, row: Row, model: Model, base: Base, *, refit: bool
) -> tuple[Trained, NDArray[np.float32]]:
    """The trained model of a row, with the checkpoint that it was trained from, and its logits [N,
    C] of the dev examples in fp32, in the unit of the labels.

    Where weights were not kept the cell is trained again, and the row is that of the new training.
    That of a refit, on all examples, those of dev included, has no score. InputError if the
    examples are gone or have changed, the training fails, or the weights are not those of the kept
    predictions. StoppedError if the user stops the training.
    """
    folder = folder_of(runs, row)
    again = refit or not is_file(folder / WEIGHTS)
    if again:
        folder, row = _train(runs, row, folder, model, refit=refit)
    job = Job.read(folder)
    job = replace(job, checkpoint=str(model.checkpoint), tokenizer=str(model.tokenizer))

    # torch loads after the training, which has a process of its own
    from bench.examples.tokens import tokenizer_of
    from bench.worker.setup import load_examples
    from bench.worker.weights import load_trained

    data = load_examples(job).pieces()[""]
    kept, unit = _kept_logits(folder)
    trained = Trained(
        row=row,
        job=job,
        base=base,
        task=data.task,
        model=load_trained(job, folder),
        tokenizer=tokenizer_of(job.cell.engine, Path(job.tokenizer)),
        dev=data.dev,
        unit=unit,
        again=again,
        refitted=refit,
    )
    logits = trained.exact_logits(data.dev)
    _check_weights(logits, kept, job.cell.amp, folder)
    predicted = [outcome_of(each, data.dev.labels, None).predicted for each in (logits, kept)]
    differs = np.not_equal(*predicted).reshape(len(data.dev), -1).any(axis=1)
    changed = 0 if data.task.kind == "regression" else int(differs.sum())
    return replace(trained, changed=changed), logits


def _check_weights(
    logits: NDArray[np.float32], kept: NDArray[np.float32], amp: str, folder: Path
) -> None:
    """Refuse weights that do not give the dev predictions that were kept with them."""
    off = np.inf if logits.shape != kept.shape else np.abs(logits - kept)
    largest = np.abs(kept).max(initial=0)
    if amp == "off":
        error, allowed = np.max(off), _EXACT * max(1.0, largest)
    else:
        error = np.sqrt(np.mean(np.square(off)))
        allowed = _HALF * kept.std() + _HALF_OF_LARGEST * largest
    if not error <= allowed:
        raise InputError(
            f"{folder / WEIGHTS}: does not give the predictions in {PREDICTIONS}; delete the file, "
            "and the cell is trained again"
        )


def _kept_logits(folder: Path) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The dev logits [N, C] of a cell's folder in the unit of the labels, with its mean and std."""
    path = folder / PREDICTIONS
    again = "; delete its folder, and the cell is trained again"
    with reading(path, SafetensorError, KeyError, TypeError, end=again):
        with open_tensors(path) as file:
            notes = file.metadata() or {}
            logits = file.get_tensor("logits")
        unit = float(notes.get("target_mean", 0)), float(notes.get("target_deviation", 1))
    return (logits.astype(np.float64) * unit[1] + unit[0]).astype(np.float32), unit


def _train(runs: Path, row: Row, folder: Path, model: Model, *, refit: bool) -> tuple[Path, Row]:
    """Train a row's cell again, or with its settings on all examples; the folder, and its row."""
    target = find_conditions("auto")
    if row.amp == "fp16" and target.device.gpu is None:
        raise InputError(
            f"{row.name}: its weights were not kept, and training in fp16 needs a GPU; export it "
            "on a machine with one"
        )
    job = _job_of(row, folder, model, target)
    data: TaskData | None = None
    if refit:
        loaded = load_task(job.cell.task, None if job.data is None else Path(job.data))
        data = TaskData(loaded.task, Folds(loaded, 2).examples, loaded.dev)
        cell = replace(job.cell, max_train=None, max_dev=None, folds=None, fold=None)
        job = replace(job, cell=cell)
    why = "a refit on all examples" if refit else "its weights were not kept"
    echo(f"note: {row.name}: {why}; it is trained now, unless it was before", err=True)
    name = f"{AGAIN[refit]}{row.cell_id}"
    with Signals() as signals, lock_on(target.device_name, signals)():
        folder = train_again(runs, job, name, target=target, signals=signals, data=data)
    trained = Job.read(folder)
    result = parse_result(read_file(folder / RESULT).decode())
    kept, _ = _kept_logits(folder)
    new = measured_row(
        trained.cell,
        target.conditions.columns(),
        columns={**result["columns"], "grid": row.grid, "repeat": 1, "attempt": 1},
        status=result["status"],
        flags=result["flags"],
        message="",
        folder=folder,
        dev_examples={"": len(kept)},
        majority_score=row.majority_score,
    )
    if refit:
        new |= {name: row[name] for name in _OF_DATA} | dict.fromkeys(_SCORES)
    return folder, new


def _job_of(row: Row, folder: Path, model: Model, target: Target) -> Job:
    known, adapter_config = None, None
    try:
        job = Job.read(folder)
        known = None if job.data is None else Path(job.data)
        adapter_config = job.adapter_config
    except InputError:  # the results came without their folders
        if row.mode == PEFT:
            raise
    return model.job(
        row.cell,
        data_folder(row, folder, known),
        adapter_config=adapter_config,
        keep=True,
        **target.conditions.job_fields(),
    )
