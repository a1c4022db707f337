"""Outcomes of dev examples in one small file next to runs.csv, where cells' folders are missing.

An outcome is the class predicted for each example, all labels predicted for it, or the number; the
labels are stored once for all cells. Most metrics, and their intervals, are the same as from the
predictions in the cells' folders; AUROC, average precision and calibration need logits, which are
only there. In the file, `runs.outcomes.safetensors`, a tensor is named by the row's key, the task's
part and a digest of the labels, which identifies the examples. Its type says what it holds:

- int8, int16 or int32 [N]: predicted classes;
- uint8 [N, ⌈C / 8⌉]: bits of predicted labels;
- int8, int16 or int32 [M]: predicted tags of M words, text after text, where labels are tags [N, W]
  with -1 after the last word of a text; or, of older files, int16 or int32 [N, W] like these;
- float64 [N]: numbers in the unit of the labels; float32 [N]: standardised numbers, of older files;
- uint8 [⌈N / 8⌉]: bits of right or wrong, of older files.

Where the documents of words are known, their indices are stored once for all cells as well, int32
[N].
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.files import LARGEST, open_tensors, write_atomically
from bench.plan.rows import Row
from minbert.data.problems import MULTI_LABEL, problem_of
from minbert.data.words import are_tags

_WHOLE: Final = "dev"  # the name in a file for a task without parts
_LABELS: Final = "labels"
_DOCUMENTS: Final = "documents"
_EXAMPLES: Final = "examples"

Array = NDArray[np.generic]
Values = NDArray[np.float64]
ValuesOf = Callable[[Sequence[Row]], Values | None]
"""From the rows of a run, one or all of its folds in order, to numbers [N] of its dev examples,
whose mean is its score; None where not stored."""


def no_values(_rows: Sequence[Row]) -> Values | None:
    return None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions for the dev examples of a task, or of one part of it.

    Attributes:
        predicted: classes [N], numbers [N], 0 and 1 for each label [N, C], or tags of words [N, W];
            without `labels` right or wrong [N].
        labels: of the same shape; None where only right and wrong are stored.
        examples: digest of the labels.
        logits: [N, C] of classes or labels, or [M, C] of words; None where not stored, or not asked
            for.
        documents: the index [N] of the document that each example is part of; None: each is one by
            itself.
    """

    predicted: Array
    labels: Array | None
    examples: str
    logits: Array | None = None
    documents: Array | None = None

    @property
    def problem(self) -> str:
        return problem_of(self.predicted).name

    @property
    def has_classes(self) -> bool:
        return self.predicted.ndim == 1 and not self.has_numbers

    @property
    def has_numbers(self) -> bool:
        return self.predicted.dtype.kind == "f"

    @property
    def in_unit(self) -> bool:
        """Whether predicted numbers are in the unit of the labels, and not standardised."""
        return self.predicted.dtype == np.float64


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of several sets of examples as one, in their order. ValueError if they are of
    different problems."""
    if len(outcomes) == 1:
        return outcomes[0]
    labels = [one.labels for one in outcomes if one.labels is not None]
    logits = [one.logits for one in outcomes if one.logits is not None]
    if len({one.predicted.dtype.kind for one in outcomes}) > 1 or len(labels) % len(outcomes):
        raise ValueError("they are of different kinds")
    return Outcome(
        np.concatenate([one.predicted for one in outcomes]),
        np.concatenate(labels) if labels else None,
        " ".join(one.examples for one in outcomes),
        np.concatenate(logits) if len(logits) == len(outcomes) else None,
        _joined_documents(outcomes),
    )


def _joined_documents(outcomes: Sequence[Outcome]) -> Array | None:
    result = np.zeros(0, dtype=np.int32)
    for one in outcomes:
        if one.documents is None:
            return None
        result = np.concatenate([result, one.documents + result.max(initial=-1) + 1])
    return result


def digest_of(labels: Array) -> str:
    return sha256(labels.dtype.str.encode() + labels.tobytes()).hexdigest()[:16]


def outcomes_file(runs: Path) -> Path:
    return runs.with_name(f"{runs.stem}.outcomes.safetensors")


def outcome_key(row: Row, part: str) -> str:
    """The name of a row's outcome on a part of its task; the part is "" for a whole task."""
    return "/".join(map(str, (*row.row_key, part or _WHOLE)))


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The outcomes of a file by their keys; none where there is no file. ValueError with the reason
    why it can't be read."""
    from safetensors import SafetensorError

    try:
        with open_tensors(path, LARGEST) as file:
            sizes = json.loads((file.metadata() or {})[_EXAMPLES])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {
            key: _outcome(tensor, tensors, examples, sizes[examples])
            for name, tensor in tensors.items()
            for key, _, examples in [name.rpartition("/")]
            if key not in (_LABELS, _DOCUMENTS)
        }
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise ValueError(" ".join(reason.split())[:100]) from e


def _outcome(stored: Array, tensors: Mapping[str, Array], examples: str, size: int) -> Outcome:
    if stored.dtype == np.uint8 and stored.ndim == 1:
        if stored.shape != ((size + 7) // 8,) or size < 1:
            raise ValueError("it has bits of other examples")
        bits = np.unpackbits(stored.view(np.uint8), count=size)
        return Outcome(bits.astype(bool), None, examples)
    labels = tensors[f"{_LABELS}/{examples}"]
    if stored.dtype == np.uint8 and stored.ndim == labels.ndim == 2:
        if stored.shape[1] != (labels.shape[1] + 7) // 8:
            raise ValueError("it has bits of other labels")
        stored = np.unpackbits(stored.view(np.uint8), axis=1, count=labels.shape[1])
    elif are_tags(labels) and stored.ndim == 1 and stored.dtype.kind == "i":
        is_word = np.greater_equal(labels, 0)
        if len(stored) != np.count_nonzero(is_word) or np.signbit(stored).any():
            raise ValueError("it has tags of other words")
        tags = labels.copy()
        tags[is_word] = stored
        stored = tags
    elif are_tags(stored) and are_tags(labels) and stored.dtype == labels.dtype:
        if (np.signbit(stored) != np.signbit(labels)).any():
            raise ValueError("it has tags of other words")
    elif stored.dtype.kind not in "fi" or stored.ndim != 1 or stored.dtype == np.float16:
        raise ValueError("its predictions are neither classes nor numbers")
    elif stored.dtype.kind == "i" and labels.dtype.kind not in "iu":
        raise ValueError("its labels are no classes")
    if digest_of(labels) != examples or stored.shape != labels.shape or len(labels) != size:
        raise ValueError("it has predictions of other examples")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and np.isfinite(stored).all()):
        raise ValueError("it has numbers that are not finite")
    documents = tensors.get(f"{_DOCUMENTS}/{examples}")
    if documents is not None and (
        documents.dtype != np.int32 or documents.shape != (size,) or np.signbit(documents).any()
    ):
        raise ValueError("it has documents of other examples")
    return Outcome(stored, labels, examples, documents=documents)


def _stored(predicted: Array) -> Array:
    """Predictions in the type by which `_outcome` recognises them, as small as it can be."""
    if problem_of(predicted) is MULTI_LABEL:
        return np.packbits(predicted.astype(bool), axis=1)
    if predicted.dtype.kind == "f":
        return predicted
    if are_tags(predicted):
        predicted = predicted[np.greater_equal(predicted, 0)]
    most = int(predicted.max(initial=0))
    small = next((t for t in (np.int8, np.int16) if most <= np.iinfo(t).max), np.int32)
    return predicted.astype(small)


def write_outcomes(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write a file that `read_outcomes` reads; logits are left out. ValueError if it would be too
    large to be read; then, and after an OSError, an earlier file stays as it is."""
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    for key, outcome in outcomes.items():
        name = f"{key}/{outcome.examples}"
        if outcome.labels is None:
            tensors[name] = np.packbits(outcome.predicted.astype(bool))
        else:
            tensors[name] = np.ascontiguousarray(_stored(outcome.predicted))
            tensors[f"{_LABELS}/{outcome.examples}"] = np.ascontiguousarray(outcome.labels)
            if outcome.documents is not None:
                tensors[f"{_DOCUMENTS}/{outcome.examples}"] = outcome.documents
    sizes = {outcome.examples: len(outcome.predicted) for outcome in outcomes.values()}
    content = save(tensors, metadata={_EXAMPLES: json.dumps(sizes, sort_keys=True)})
    if len(content) > LARGEST:
        raise ValueError(
            f"it would have {len(content):,} bytes, and no more than {LARGEST:,} are read"
        )
    write_atomically(path, content)
