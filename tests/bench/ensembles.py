"""Cells with made-up predictions, and the command that makes ensembles of them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.common.errors import InputError
from bench.plan.cell import MULTITASK, OVERALL, Cell, Row
from bench.plan.columns import NAMES, PART_SCORES, row_key
from bench.plan.parts import to_text
from bench.results.rowfile import encode, record
from bench.results.store import cell_folder
from bench.studies.ensemble.__main__ import command
from minbert.data.tasks import find_task
from tests.bench.synthetic_rows import cell, result_row

PARTS = tuple(PART_SCORES)
ENCODER = 22_714_141
"""Parameters of a frozen encoder, which `ADAPTER` more train beside."""
ADAPTER = 1000
DEV, HELD = 500, 300
Arrays = dict[str, np.ndarray]


def labels_of(task: str, count: int) -> np.ndarray:
    """Labels of a task's dev or held-out examples."""
    rng = np.random.default_rng([count, *task.encode()])
    classes = {"sst": 5, "quora": 2}.get(task, 3)
    return rng.normal(size=count) if task == "sts" else rng.integers(0, classes, count)


def indices_of(count: int, first: int = 0) -> np.ndarray:
    """Indices of the training examples that were held out, from a first one on."""
    return np.arange(first, first + 10 * count, 10, dtype=np.int64)


def logits_of(
    task: str, labels: np.ndarray, rng: np.random.Generator, strength: float, *, whole: bool
) -> np.ndarray:
    """Logits that point to the labels more or less; of two classes one, if `whole`."""
    if task == "sts":
        aim = strength * labels[:, None]
    elif whole and task == "quora":
        aim = strength * (2.0 * labels[:, None] - 1)
    else:
        aim = strength * np.eye({"sst": 5, "quora": 2}.get(task, 3))[labels]
    return (aim + rng.normal(size=aim.shape)).astype(np.float32)


def predictions(
    task: str, seed: int, strength: float, *, whole: bool = False, dev: np.ndarray | None = None
) -> Arrays:
    """What a cell keeps of one task.

    Args:
        dev: labels of dev, if they are given.
    """
    rng = np.random.default_rng([seed, *task.encode(), int(whole)])
    dev, held = labels_of(task, DEV) if dev is None else dev, labels_of(task, HELD)
    return {
        "logits": logits_of(task, dev, rng, strength, whole=whole), "labels": dev,
        "held_logits": logits_of(task, held, rng, strength, whole=whole), "held_labels": held,
        "held_indices": indices_of(HELD),
    }  # fmt: skip


def keep_indices(path: Path, indices: np.ndarray | None, prefix: str = "") -> None:
    """Give a cell's file indices of what was held out; with None, make it one without any."""
    name = f"{prefix}held_indices"
    kept = {of: array for of, array in load_file(path).items() if of != name}
    new = {} if indices is None else {name: indices}
    save_file({**kept, **new}, path)


def _cell(mode: str, seed: int, **settings: Any) -> Cell:
    axes = (8, "attn") if mode in ("lora", "dora") else (None, None)
    return cell(mode, *axes, "off", seed, **{"held_out": 0.1, **settings})


class Place:
    """A runs.csv with the folders of its cells."""

    def __init__(self, folder: Path) -> None:
        self.csv = folder / "runs.csv"
        self.rows: list[Row] = []

    def add(
        self, seed: int, *, strength: float = 1.0, mode: str = "lora", task: str = "movies",
        dev: np.ndarray | None = None, **settings: Any,
    ) -> Path:  # fmt: skip
        """A cell whose predictions are right more or less often; its file of predictions.

        Args:
            dev: labels of dev, if they are given.
            settings: of the cell.
        """
        kept = predictions(task, seed, strength, dev=dev)
        return self.keep(_cell(mode, seed, task=task, **settings), kept)

    def add_whole(
        self, seed: int, *, strength: float = 1.0, mode: str = "lora",
        parts: Sequence[str] = PARTS, **settings: Any,
    ) -> Path:  # fmt: skip
        """A cell of task multitask, likewise."""
        ones = to_text(dict.fromkeys(parts, 1.0))
        settings = {"encoders": 1, "task_order": "proportional", "task_rates": ones,
                    "task_decays": ones, "data_digest": "d15ea5e", **settings}  # fmt: skip
        scores = {PART_SCORES[part]: 0.5 for part in parts}
        columns = {"dev_metric": OVERALL, **scores}
        kept = {
            f"{part}.{name}": array
            for part in parts
            for name, array in predictions(part, seed, strength, whole=True).items()
        }
        return self.keep(_cell(mode, seed, task=MULTITASK, **settings), kept, **columns)

    def keep(self, of: Cell, kept: Arrays, **columns: Any) -> Path:
        """Any cell with what it keeps; the file of that.

        Args:
            columns: that its row has.
        """
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

    def folder(self, of: Cell, row: Row) -> Path:
        """A cell's."""
        return cell_folder(self.csv, of.name, *row_key(row))

    def write(self) -> None:
        """The rows, into the CSV."""
        self.csv.write_bytes(record(NAMES) + b"".join(map(encode, self.rows)))

    def run(self, *arguments: str) -> int:
        """The command's exit code."""
        line = ["--runs", str(self.csv), *arguments]
        code: int = command.main(line, standalone_mode=False)
        return code

    def refused(self, *arguments: str) -> str:
        """What the command says of bad input."""
        with pytest.raises(InputError) as caught:
            self.run(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)
