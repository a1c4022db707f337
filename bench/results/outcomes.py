"""Outcomes of dev examples in one small file next to runs.csv, where cells' folders are missing.

For an accuracy an outcome is one bit for each example, right or wrong; for a correlation it is the
predictions, and the labels once for all cells. Both give the same intervals as the predictions in
the cells' folders. In the file, `runs.outcomes.safetensors`, a tensor is named by the row's key,
the task's part and a digest of the labels, which identifies the examples.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

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
ValuesOf = Callable[[Sequence[Row]], Values | None]
"""From the rows of a run, one or all of its folds in order, to numbers [N] of its dev examples,
whose mean is its score; None where not stored."""


def no_values(_rows: Sequence[Row]) -> Values | None:
    """A `ValuesOf` that has no numbers for any run."""
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


def outcome_key(row: Row, part: str) -> str:
    """The name of a row's outcome on a part of its task; the part is "" for a whole task."""
    return "/".join(map(str, (*row.row_key, part or _WHOLE)))


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The outcomes of a file by their keys; none where there is no file.

    Raises:
        ValueError: with the reason why it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError("it is no file of outcomes")
        with safe_open(path, framework="numpy") as file:
            sizes = json.loads((file.metadata() or {})[_EXAMPLES])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {
            key: _outcome(tensor, tensors, examples, sizes[examples])
            for name, tensor in tensors.items()
            for key, _, examples in [name.rpartition("/")]
            if key != _LABELS
        }
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(" ".join(str(e).split())[:100]) from e


def _outcome(stored: Array, tensors: Mapping[str, Array], examples: str, size: int) -> Outcome:
    """An outcome on `size` examples.

    Raises:
        KeyError, TypeError, ValueError: if the file contradicts itself.
    """
    if stored.dtype == np.uint8:
        if stored.shape != ((size + 7) // 8,) or size < 1:
            raise ValueError("it has bits of other examples")
        bits = np.unpackbits(stored.view(np.uint8), count=size)
        return Outcome(bits.astype(bool), None, examples)
    labels = tensors[f"{_LABELS}/{examples}"]
    if digest_of(labels) != examples or not stored.shape == labels.shape == (size,):
        raise ValueError("it has predictions of other examples")
    if stored.dtype.kind != "f":
        raise ValueError("its predictions are no numbers")
    return Outcome(stored, labels, examples)


def write_outcomes(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write a file that `read_outcomes` reads.

    Raises:
        ValueError: if it would be too large to be read. Nothing is written.
        OSError: if it can't be written. An earlier file stays as it is.
    """
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    for key, outcome in outcomes.items():
        name = f"{key}/{outcome.examples}"
        if outcome.labels is None:
            tensors[name] = np.packbits(outcome.numbers.astype(bool))
        else:
            tensors[name] = np.ascontiguousarray(outcome.numbers)
            tensors[f"{_LABELS}/{outcome.examples}"] = np.ascontiguousarray(outcome.labels)
    sizes = {outcome.examples: len(outcome.numbers) for outcome in outcomes.values()}
    content = save(tensors, metadata={_EXAMPLES: json.dumps(sizes, sort_keys=True)})
    if len(content) > _LARGEST:
        raise ValueError(
            f"it would have {len(content):,} bytes, and no more than {_LARGEST:,} are read"
        )
    write_atomically(path, content)
