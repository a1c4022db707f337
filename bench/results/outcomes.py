"""Outcomes of dev examples in one small file beside runs.csv, for who has no folders of cells.

Of an accuracy that is a bit for each example, right or wrong; of a correlation, what was predicted
of it, and once for all cells the labels. Both give the same intervals as the predictions in the
cells' folders. In the file, `runs.outcomes.safetensors`, a tensor is named by the row's key, the
task's part, and a digest of the labels, by which examples are known to be the same.
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
from bench.plan.cell import Row
from bench.plan.columns import row_key

_LARGEST: Final = 2**26
"""Bytes of a file that is read or written; 10,000 cells of 5,000 examples take a tenth."""
_WHOLE: Final = "dev"
"""Stands for the part of a task that has no parts."""
_LABELS: Final = "labels"
_EXAMPLES: Final = "examples"

Array = NDArray[np.generic]
Values = NDArray[np.float64]
ValuesOf = Callable[[Row], Values | None]
"""Of a row's dev examples a number each [N], whose mean is its score; None where not kept."""


def no_values(_row: Row) -> Values | None:
    """Where nothing is kept."""
    return None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cell made of the dev examples of a task, or of a part of one.

    Attributes:
        numbers: [N] right or wrong, or the predictions of a regression.
        labels: [N] of a regression; None where they are in `numbers` already.
        examples: digest of the labels.
    """

    numbers: Array
    labels: Array | None
    examples: str


def digest_of(labels: Array) -> str:
    """The digest of labels in their order."""
    return sha256(labels.dtype.str.encode() + labels.tobytes()).hexdigest()[:16]


def outcomes_file(runs: Path) -> Path:
    """Where the outcomes of a CSV are."""
    return runs.with_name(f"{runs.stem}.outcomes.safetensors")


@dataclass
class Outcomes:
    """The outcomes of rows, as in a file: tensors by name, and how many examples a digest has."""

    tensors: dict[str, Array] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find names by row and part."""
        self._names = {name.rpartition("/")[0]: name for name in self.tensors}

    @classmethod
    def read(cls, path: Path) -> "Outcomes":
        """Those of a file; none where it is not there.

        Raises:
            ValueError: saying why it can't be read.
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
            parts: those that the task may have, "" for the whole, and whether each is a regression.

        Raises:
            ValueError: if they can't be what the file says they are.
        """
        found = {}
        for part, regression in parts.items():
            name = self._names.get(f"{_key(row)}/{part or _WHOLE}")
            if name is not None:
                examples = name.rpartition("/")[2]
                found[part] = self._outcome(self.tensors[name], examples, regression)
        return found

    def _outcome(self, stored: Array, examples: str, regression: bool) -> Outcome:
        size = self.sizes.get(examples, 0)
        if not regression:
            if stored.dtype != np.uint8 or stored.shape != ((size + 7) // 8,) or not size:
                raise ValueError("bits of other examples")
            return Outcome(
                np.unpackbits(stored.view(np.uint8), count=size).astype(bool), None, examples
            )
        labels = self.tensors.get(f"{_LABELS}/{examples}")
        if labels is None or digest_of(labels) != examples:
            raise ValueError("labels that are not there")
        if stored.shape != (size,) or labels.shape != (size,) or stored.dtype.kind != "f":
            raise ValueError("predictions of other examples")
        return Outcome(stored, labels, examples)

    def keep(self, row: Row, part: str, outcome: Outcome) -> None:
        """Take in a row's outcome, in place of one that it had."""
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
            ValueError: if it would be larger than one that is read. Nothing is written.
            OSError: if it can't be written. What was there before is still there.
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
    return "/".join(map(str, row_key(row)))
