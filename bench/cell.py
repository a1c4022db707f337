"""A cell: one point of a grid, and everything that determines its result."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from bench.schema import Row, Value

_LABELS: Final = {"model", "max_train", "max_dev", "learning_rate_source", "scale"}
"""Fields outside the digest: names of, or derived from, what other fields digest."""


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

    @property
    def scale(self) -> float | None:
        """The factor of the adapter's update, alpha / rank."""
        return None if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def cell_id(self) -> str:
        """Digest of everything that determines the result."""
        return digest({k: v for k, v in asdict(self).items() if k not in _LABELS})

    @property
    def name(self) -> str:
        """A short name for people and folders, such as `lora-r8-all-lin-only-bf16-s0`."""
        adapter = f"-r{self.rank}-{self.layers}" if self.rank is not None else ""
        return f"{self.mode}{adapter}-{'fp32' if self.amp == 'off' else self.amp}-s{self.seed}"

    def columns(self) -> Row:
        """The fields as columns of runs.csv."""
        return {**asdict(self), "scale": self.scale, "cell_id": self.cell_id}

    @classmethod
    def from_columns(cls, columns: dict[str, Value]) -> "Cell":
        """The inverse of `columns`; other columns are ignored."""
        values: dict[str, Any] = {field.name: columns[field.name] for field in fields(cls)}
        return cls(**values)
