"""What all cells of a grid share that decides their costs, and keys under which costs are kept."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.forecast.costs import ShapesOf, Variant, stages_of
from bench.machine.conditions import MEASUREMENT_VERSION, Conditions
from bench.plan.cell import CANDIDATE, Cell, digest
from bench.plan.models import Model
from bench.plan.parts import from_text
from minbert.data.tasks import find_task
from minbert.files import vocabulary_digest

_SEEDS: Final = 3
"""Seeds whose batches are planned: others' differ by a token here and there."""
_ROOT: Final = Path(__file__).parents[2]
_COUNTED: Final = (
    *("adapters/*.py", "minbert/**/*.py", "bench/worker/setup.py"),
    *(f"bench/forecast/{name}.py" for name in ("batches", "counting", "fake")),
)
"""Code that decides what is counted."""
_IMPORTED: Final = (
    *("adapters/*.py", "minbert/**/*.py", "bench/__init__.py"),
    *(f"bench/{room}/**/*.py" for room in ("common", "data", "plan", "results", "stats", "worker")),
)
"""Code that a worker imports, and more of the same folders."""
_LIBRARIES: Final = ("numpy", "safetensors")
"""What it imports beside torch, whose version is one of the conditions."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, data and settings.

    `config` has a BertConfig's fields, with the cells' dropout; `searches` tells that the examples
    are those of a search for learning rates; `parts` names those of the task that the data has, and
    `encoders` and `task_order` are None where it has none.
    """

    config: dict[str, Any]
    pooling: str
    new_pooler: bool
    head: str
    kernels: str
    regression_loss: str | None
    parts: tuple[str, ...]
    encoders: int | None
    task_order: str | None
    task: str
    data: str | None
    data_digest: str
    max_train: int | None
    max_dev: int | None
    held_out: float
    searches: bool
    tokenizer: str
    vocabulary: str
    max_length: int
    batching: str
    epochs: int
    max_steps: int | None
    seeds: tuple[int, ...]
    device: str
    conditions_id: str
    torch_version: str

    @classmethod
    def of(
        cls, cells: Sequence[Cell], model: Model, conditions: Conditions, data: Path | None
    ) -> "Workload":
        """That of the cells of a grid.

        A pooler counts as the checkpoint's own: whether it has one shows when it is loaded.
        """
        cell, task = cells[0], find_task(cells[0].task)
        there = from_text(cell.task_rates) if cell.task_rates is not None else {}
        config = replace(
            model.config,
            hidden_dropout_prob=cell.dropout,
            attention_probs_dropout_prob=cell.dropout,
        )
        return cls(
            config=asdict(config),
            pooling=cell.pooling,
            new_pooler=cell.init == "random",
            head=cell.head,
            kernels=cell.kernels,
            regression_loss=cell.regression_loss,
            parts=tuple(part for part in task.parts if part in there) or ("",),
            encoders=cell.encoders,
            task_order=cell.task_order,
            task=cell.task,
            data=None if data is None else str(data.resolve()),
            data_digest=cell.data_digest,
            max_train=cell.max_train,
            max_dev=cell.max_dev,
            held_out=cell.held_out,
            searches=cell.learning_rate_source == CANDIDATE,
            tokenizer=str(model.tokenizer.resolve()),
            vocabulary=vocabulary_digest(model.tokenizer),
            max_length=cell.max_length,
            batching=cell.batching,
            epochs=cell.epochs,
            max_steps=cell.max_steps,
            seeds=tuple(sorted({cell.seed for cell in cells})[:_SEEDS]),
            device=conditions.worker_device,
            conditions_id=conditions.conditions_id,
            torch_version=conditions.torch_version,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Workload":
        """The inverse of `asdict`, through JSON."""
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**kept)

    def shapes_key(self, batch_size: int) -> str:
        """Digest of what decides the batches."""
        names = (
            *("data_digest", "vocabulary", "max_length", "held_out"),
            *("batching", "epochs", "max_steps", "task_order"),
        )
        values = [getattr(self, name) for name in names]
        return _key("shapes", values, batch_size, self.seeds)

    def counts_key(self, shapes: ShapesOf, variant: Variant) -> str:
        """Digest of what decides the counts of a variant."""
        names = (
            *("config", "pooling", "new_pooler", "head", "kernels", "regression_loss"),
            *("task", "parts", "encoders", "torch_version"),
        )
        values = [getattr(self, name) for name in names]
        batches = {part: of.to_count() for part, of in shapes.items()}
        device = self.device.partition(":")[0]
        return _key("counts", values, device, batches, stages_of(variant, shapes), variant)

    def imports_key(self) -> str:
        """Digest of what decides how much memory the imports take."""
        versions = [platform.python_version(), *map(version, _LIBRARIES)]
        return _key("imports", self.conditions_id, versions, _code(_IMPORTED))


def _key(*values: Any) -> str:
    return digest([MEASUREMENT_VERSION, _code(_COUNTED), *values], 32)


@cache
def _code(patterns: tuple[str, ...]) -> str:
    found = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(_ROOT.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()
