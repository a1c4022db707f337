"""Cells with kept weights on a tiny checkpoint, and the command that reads their updates."""

from pathlib import Path

import numpy as np
import torch

from adapters.injection import inject, linear_layers
from bench.plan.job import FILE
from bench.updates import command
from bench.worker.saving import save_weights
from minbert.data.tasks import find_task
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import BertConfig
from tests.adapters.small import disturb
from tests.bench import tiny_cells
from tests.bench.places import CommandPlace
from tests.bench.synthetic_rows import result_row


def base_model(checkpoint: Path, task: str = "movies") -> BertClassifier:
    """A checkpoint's encoder with a new head, before training."""
    config, outputs = BertConfig.from_folder(checkpoint), find_task(task).num_outputs
    model = BertClassifier(config, outputs, pooling="pooler", dropout=0.1)
    load_encoder(model.bert, checkpoint)
    initialise(model, 0)
    return model


def moved_model(checkpoint: Path, task: str = "movies") -> BertClassifier:
    disturb(model := base_model(checkpoint, task))
    return model


def adapted_model(checkpoint: Path, mode: str, layers: str, rank: int = 4) -> BertClassifier:
    """The same with adapters that do not change its output yet."""
    model = base_model(checkpoint)
    inject(model, mode=mode, layers=layers, rank=rank, alpha=16.0, new_pooler=False, seed=0)
    return model


@torch.no_grad()
def move(model: BertClassifier, ending: str, update: np.ndarray) -> None:
    """Add an update to the weights of the linear layers whose names have an ending."""
    for _, linear, names in linear_layers(model.bert):
        for name, rows in zip(names, linear.weight.detach().chunk(len(names)), strict=True):
            if name.endswith(ending):
                rows.copy_(rows + torch.from_numpy(update).float())


class Place(CommandPlace):
    def __init__(self, folder: Path, checkpoint: Path) -> None:
        super().__init__(folder, command)
        self.checkpoint = checkpoint

    def add(self, model, /, mode="full", layers="all-lin-only", columns=None, **changes) -> Path:
        """Add a cell with its trained model, if it was kept, and other settings; its folder."""
        of = tiny_cells.cell(self.checkpoint, mode, layers, **changes)
        row = result_row(of, **{"threads": 1, **(columns or {})})
        folder = self.folder(of, row)
        folder.mkdir(parents=True)
        (folder / FILE).write_text(tiny_cells.job_of(of, self.checkpoint).to_json())
        if model is not None:
            save_weights(model, [p for p in model.parameters() if p.requires_grad], folder)
        self.rows.append(row)
        self.write()
        return folder
