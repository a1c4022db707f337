"""Outcomes of dev examples in one small file next to runs.csv, where cells' folders are missing.

For an accuracy an outcome is one bit for each example, right or wrong; for a correlation it is the
predictions, and the labels once for all cells. Both give the same intervals as the predictions in
the cells' folders. In the file, `runs.outcomes.safetensors`, a tensor is named by the row's key,
the task's part and a digest of the labels, which identifies the examples.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.files import write_atomically
from bench.plan.rows import Row

_LARGEST: Final = 2**26
"""Most bytes of a file that is read or written; 10,000 cells of 5,000 examples take a tenth."""
_WHOLE: Final = "dev"
"""The name in a file for a task without parts."""
_LABELS: Final = "labels"
_EXAMPLES: Final = "examples"

Array = NDArray[np.generic]
Values = NDArray[np.float64]
ValuesOf = Callable[[Row], Values | None]
"""From a row to numbers [N] of its dev examples, whose mean is its score; None where not stored."""


def no_values(_row: Row) -> Values | None:
    """A `ValuesOf` that has no numbers for any row."""
    return None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A cell's results on the dev examples of a task, or of one part of it.

    Attributes:
        numbers: [N] right or wrong; for a regression, the predictions.
        labels: [N] of a regression; None for an accuracy.
        examples: digest of the labels.
    """

    numbers: Array
    labels: Array | None
    examples: str


def digest_of(labels: Array) -> str:
    """A digest of labels and their order."""
    return sha256(labels.dtype.str.encode() + labels.tobytes()).hexdigest()[:16]


def outcomes_file(runs: Path) -> Path:
    """The path of a CSV's outcomes."""
    return runs.with_name(f"{runs.stem}.outcomes.safetensors")


@dataclass
class Outcomes:
    """The content of a file: tensors by name, and the number of examples by digest."""

    tensors: dict[str, Array] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the names of tensors by row and part."""
        self._names = {name.rpartition("/")[0]: name for name in self.tensors}

    @classmethod
    def read(cls, path: Path) -> "Outcomes":
        """The outcomes of a file; empty where there is no file.

        Raises:
            ValueError: with the reason why it can't be read.
        """
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            return cls()
        try:
            if not path.is_file() or path.stat().st_size > _LARGEST:
                raise ValueError("it is no file of outcomes")
            with safe_open(path, framework="numpy") as file:
                sizes = json.loads((file.metadata() or {})[_EXAMPLES])
                if not all(type(size) is int for size in sizes.values()):
                    raise ValueError("its numbers of examples are none")
                return cls({name: file.get_tensor(name) for name in file.keys()}, sizes)  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise ValueError(" ".join(str(e).split())[:100]) from e

    def of(self, row: Row, parts: Mapping[str, bool]) -> dict[str, Outcome]:
        """The outcomes of a row, by part.

        Args:
            parts: parts that the task may have, "" for the whole, and whether each is a regression.

        Raises:
            ValueError: if the tensors contradict the file's names and sizes.
        """
        outcomes = {}
        for part, regression in parts.items():
            name = self._names.get(f"{_key(row)}/{part or _WHOLE}")
            if name is not None:
                examples = name.rpartition("/")[2]
                outcomes[part] = self._outcome(self.tensors[name], examples, regression)
        return outcomes

    def _outcome(self, stored: Array, examples: str, regression: bool) -> Outcome:
        size = self.sizes.get(examples, 0)
        if not regression:
            if stored.dtype != np.uint8 or stored.shape != ((size + 7) // 8,) or not size:
                raise ValueError("bits of other examples")
            bits = np.unpackbits(stored.view(np.uint8), count=size)
            return Outcome(bits.astype(bool), None, examples)
        labels = self.tensors.get(f"{_LABELS}/{examples}")
        if labels is None or digest_of(labels) != examples:
            raise ValueError("labels that are not there")
        if stored.shape != (size,) or labels.shape != (size,) or stored.dtype.kind != "f":
            raise ValueError("predictions of other examples")
        return Outcome(stored, labels, examples)

    def keep(self, row: Row, part: str, outcome: Outcome) -> None:
        """Store a row's outcome, replacing an earlier one."""
        stem = f"{_key(row)}/{part or _WHOLE}"
        self.tensors.pop(self._names.get(stem, ""), None)
        name = self._names[stem] = f"{stem}/{outcome.examples}"
        self.sizes[outcome.examples] = len(outcome.numbers)
        if outcome.labels is None:
            self.tensors[name] = np.packbits(outcome.numbers.astype(bool))
        else:
            self.tensors[name] = outcome.numbers
            self.tensors[f"{_LABELS}/{outcome.examples}"] = outcome.labels

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            ValueError: if it would be too large to be read. Nothing is written.
            OSError: if it can't be written. An earlier file stays as it is.
        """
        from safetensors.numpy import save

        tensors: dict[str, Any] = {n: np.ascontiguousarray(t) for n, t in self.tensors.items()}
        sizes = json.dumps(self.sizes, sort_keys=True)
        content = save(tensors, metadata={_EXAMPLES: sizes})
        if len(content) > _LARGEST:
            raise ValueError(
                f"it would have {len(content):,} bytes, and no more than {_LARGEST:,} are read"
            )
        write_atomically(path, content)


def _key(row: Row) -> str:
    return "/".join(map(str, row.row_key))
