"""Cells with made-up predictions, and the command that makes ensembles of them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.ensemble import command
from bench.plan.cell import MULTITASK, Cell
from bench.plan.columns import PART_SCORES, format_parts
from bench.plan.metrics import OVERALL
from minbert.data.tasks import find_task
from tests.bench.places import CommandPlace
from tests.bench.synthetic_rows import cell, result_row

PARTS = tuple(PART_SCORES)
ENCODER = 22_714_141
"""Parameters of a frozen encoder, which `ADAPTER` more train beside."""
ADAPTER = 1000
DEV, HELD = 500, 300
Arrays = dict[str, np.ndarray]


def labels_of(task: str, count: int) -> np.ndarray:
    rng = np.random.default_rng([count, *task.encode()])
    classes = {"sst": 5, "quora": 2}.get(task, 3)
    return rng.normal(size=count) if task == "sts" else rng.integers(0, classes, count)


def indices_of(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + 10 * count, 10, dtype=np.int64)


def logits_of(task, labels, rng: np.random.Generator, strength: float, *, whole: bool) -> Any:
    """Logits that predict the labels more or less well; one for two classes, if `whole`."""
    if task == "sts":
        center = strength * labels[:, None]
    elif whole and task == "quora":
        center = strength * (2.0 * labels[:, None] - 1)
    else:
        center = strength * np.eye({"sst": 5, "quora": 2}.get(task, 3))[labels]
    return (center + rng.normal(size=center.shape)).astype(np.float32)


def predictions(task: str, seed: int, strength: float, *, whole=False, dev=None) -> Arrays:
    """A cell's predictions for one task; `dev`: labels of dev, made up by default."""
    rng = np.random.default_rng([seed, *task.encode(), int(whole)])
    dev, held = labels_of(task, DEV) if dev is None else dev, labels_of(task, HELD)
    return {
        "logits": logits_of(task, dev, rng, strength, whole=whole), "labels": dev,
        "held_logits": logits_of(task, held, rng, strength, whole=whole), "held_labels": held,
        "held_indices": indices_of(HELD),
    }  # fmt: skip


def keep_indices(path: Path, indices: np.ndarray | None, prefix: str = "") -> None:
    """Replace the indices of held-out examples in a cell's file; with None, remove them."""
    name = f"{prefix}held_indices"
    tensors = {key: array for key, array in load_file(path).items() if key != name}
    save_file(tensors if indices is None else {**tensors, name: indices}, path)


def _cell(mode: str, seed: int, **settings: Any) -> Cell:
    axes = (8, "attn") if mode in ("lora", "dora") else (None, None)
    return cell(mode, *axes, "off", seed, **{"held_out": 0.1, **settings})


class Place(CommandPlace):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, command)

    def add(self, seed, *, strength=1.0, mode="lora", task="movies", dev=None, **settings) -> Path:
        """Add a cell whose predictions are right more or less often; its file of predictions."""
        of = _cell(mode, seed, task=task, **settings)
        return self.keep(of, predictions(task, seed, strength, dev=dev))

    def add_whole(self, seed, *, strength=1.0, mode="lora", parts=PARTS, **settings) -> Path:
        """Add a cell of task multitask, likewise."""
        ones = format_parts(dict.fromkeys(parts, 1.0))
        settings = {"encoders": 1, "task_order": "proportional", "task_rates": ones,
                    "task_decays": ones, "data_digest": "d15ea5e", **settings}  # fmt: skip
        columns = {"dev_metric": OVERALL, **{PART_SCORES[part]: 0.5 for part in parts}}
        kept: Arrays = {}
        for part in parts:
            made = predictions(part, seed, strength, whole=True)
            kept |= {f"{part}.{name}": array for name, array in made.items()}
        return self.keep(_cell(mode, seed, task=MULTITASK, **settings), kept, **columns)

    def keep(self, of: Cell, kept: Arrays, **columns: Any) -> Path:
        """Add a cell with its predictions and columns of its row; its file of predictions."""
        trained = ENCODER + ADAPTER if of.rank is None else ADAPTER
        usual = {"params_total": ENCODER + ADAPTER, "params_trainable": trained,
                 "dev_metric": find_task(of.task).metric}  # fmt: skip
        row = result_row(of, random.Random(of.seed), **{**usual, **columns})  # noqa: S311
        self.rows.append(row)
        path = self.folder(of, row) / "predictions.safetensors"
        path.parent.mkdir(parents=True)
        save_file(kept, path)
        self.write()
        return path
