"""A cell: one point of a grid, and everything that determines its result."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from bench.plan.columns import FP32, MIXED, OFF, ON, Row, Value

_LABELS: Final = {"model", "max_train", "max_dev", "learning_rate_source", "scale"}
"""Fields outside the digest: names of, or derived from, what other fields digest."""
_LATER: Final[dict[str, Value]] = {
    "unfreeze": "all",
    "head": "linear",
    "schedule": "linear",
    "regression_loss": "mse",
    "held_out": 0.0,
    "encoders": None,
    "task_order": None,
    "task_rates": None,
    "task_decays": None,
    "compile": OFF,
    "frozen_dtype": MIXED,
}
"""Fields that came later, with what was so before: they are in the digest where they differ."""


def digest(value: Any, length: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The axes and settings of one run, named as in runs.csv. None: does not apply."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    seed: int
    model: str
    model_digest: str
    init: str
    pooling: str
    task: str
    data_digest: str
    max_train: int | None
    max_dev: int | None
    max_length: int
    batching: str
    batch_size: int
    epochs: int
    max_steps: int | None
    optimizer: str
    learning_rate: float | None
    learning_rate_base: float | None
    learning_rate_head: float | None
    learning_rate_source: str
    weight_decay: float
    warmup: float
    alpha: float | None
    dropout: float
    unfreeze: str | None = "all"
    head: str = "linear"
    schedule: str = "linear"
    regression_loss: str | None = None
    held_out: float = 0.0
    encoders: int | None = None
    task_order: str | None = None
    task_rates: str | None = None
    task_decays: str | None = None
    compile: str = OFF
    frozen_dtype: str | None = None

    @property
    def scale(self) -> float | None:
        """The factor of the adapter's update, alpha / rank."""
        return None if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def is_compiled(self) -> bool:
        """Whether its training steps go through torch.compile."""
        return self.compile == ON

    @property
    def cell_id(self) -> str:
        """Digest of everything that determines the result."""
        return digest(
            {
                name: value
                for name, value in asdict(self).items()
                if name not in _LABELS and not (name in _LATER and value in (None, _LATER[name]))
            }
        )

    @property
    def name(self) -> str:
        """A short name for people and folders, such as `lora-r8-all-lin-only-bf16-s0`."""
        adapter = f"-r{self.rank}-{self.layers}" if self.rank is not None else ""
        unfreezing = f"-{self.unfreeze}" if self.unfreeze not in (None, "all") else ""
        precision = "fp32" if self.amp == "off" else self.amp
        if self.frozen_dtype not in (None, FP32, MIXED):
            precision += f"-frozen-{self.frozen_dtype}"
        return f"{self.mode}{adapter}{unfreezing}-{precision}-s{self.seed}"

    def columns(self) -> Row:
        """The fields as columns of runs.csv."""
        return {**asdict(self), "scale": self.scale, "cell_id": self.cell_id}

    @classmethod
    def from_columns(cls, columns: dict[str, Value]) -> "Cell":
        """The inverse of `columns`; other columns are ignored."""
        values: dict[str, Any] = {field.name: columns[field.name] for field in fields(cls)}
        return cls(**values)
