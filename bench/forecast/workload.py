"""The settings that all cells of a grid share and that decide their costs, and the keys of a cache
of costs."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from bench.forecast.costs import ShapesOf, Variant, stages_of
from bench.machine.conditions import MEASUREMENT_VERSION, Conditions
from bench.plan.cell import CANDIDATE, Cell, digest
from bench.plan.models import Model
from bench.plan.parts import from_text
from minbert.data.tasks import find_task
from minbert.files import vocabulary_digest

_SEEDS: Final = 3
"""The number of seeds whose batches are planned: those of other seeds hardly differ."""
_ROOT: Final = Path(__file__).parents[2]
_COUNTED: Final = (
    *("adapters/*.py", "minbert/**/*.py", "bench/worker/setup.py"),
    *(f"bench/forecast/{name}.py" for name in ("batches", "counting", "fake")),
)
"""Code that decides the counts."""
_IMPORTED: Final = (
    *("adapters/*.py", "minbert/**/*.py", "bench/__init__.py"),
    *(f"bench/{room}/**/*.py" for room in ("common", "data", "plan", "results", "stats", "worker")),
)
"""Code that a worker imports, and the rest of the same folders."""
_LIBRARIES: Final = ("numpy", "safetensors")
"""Libraries that a worker imports besides torch, whose version is one of the conditions."""
_SETTINGS: Final = (
    *("pooling", "head", "kernels", "regression_loss", "encoders", "task_order", "task"),
    *("data_digest", "max_train", "max_dev", "held_out", "max_length"),
    *("batching", "epochs", "max_steps"),
)
"""Fields of a workload that a cell has by the same name."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, data and settings.

    `config` has the fields of a BertConfig, with the cells' dropout. `searches` is true for the
    examples of a search for learning rates. `parts` are those parts of the task that the data has;
    `encoders` and `task_order` are None for a task without parts.
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
        """The workload of the cells of a grid.

        A pooler counts as the checkpoint's own: whether it has one is known only once it is loaded.
        """
        cell, task = cells[0], find_task(cells[0].task)
        present = from_text(cell.task_rates) if cell.task_rates is not None else {}
        config = replace(
            model.config,
            hidden_dropout_prob=cell.dropout,
            attention_probs_dropout_prob=cell.dropout,
        )
        settings: dict[str, Any] = {name: getattr(cell, name) for name in _SETTINGS}
        return cls(
            **settings,
            config=asdict(config),
            new_pooler=cell.init == "random",
            parts=tuple(part for part in task.parts if part in present) or ("",),
            data=None if data is None else str(data.resolve()),
            searches=cell.learning_rate_source == CANDIDATE,
            tokenizer=str(model.tokenizer.resolve()),
            vocabulary=vocabulary_digest(model.tokenizer),
            seeds=tuple(sorted({cell.seed for cell in cells})[:_SEEDS]),
            device=conditions.worker_device,
            conditions_id=conditions.conditions_id,
            torch_version=conditions.torch_version,
        )

    def shapes_key(self, batch_size: int) -> str:
        """Digest of everything that decides the batches."""
        names = (
            *("data_digest", "vocabulary", "max_length", "held_out"),
            *("batching", "epochs", "max_steps", "task_order"),
        )
        values = [getattr(self, name) for name in names]
        return _key("shapes", values, batch_size, self.seeds)

    def counts_key(self, shapes: ShapesOf, variant: Variant) -> str:
        """Digest of everything that decides the counts of a variant."""
        names = (
            *("config", "pooling", "new_pooler", "head", "kernels", "regression_loss"),
            *("task", "parts", "encoders", "torch_version"),
        )
        values = [getattr(self, name) for name in names]
        batches = {part: of_part.to_count() for part, of_part in shapes.items()}
        device = self.device.partition(":")[0]
        return _key("counts", values, device, batches, stages_of(variant, shapes), variant)

    def imports_key(self) -> str:
        """Digest of everything that decides the memory of the imports."""
        versions = [platform.python_version(), *map(version, _LIBRARIES)]
        return _key("imports", self.conditions_id, versions, _code(_IMPORTED))


REQUEST: Final = TypeAdapter(tuple[Workload, list[Variant]])
"""The format of a request to count, as JSON."""


def _key(*values: Any) -> str:
    return digest([MEASUREMENT_VERSION, _code(_COUNTED), *values], 32)


@cache
def _code(patterns: tuple[str, ...]) -> str:
    """Digest of the files of this project that match."""
    code = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(_ROOT.glob(pattern)):
            code.update(path.read_bytes())
    return code.hexdigest()
