"""The problems that a model can learn: how their labels are stored, split, counted, predicted and
scored. Labels and predictions are plain arrays, whose shape and type show which of this project's
problems they are of. A plugin's problem extends the class of one of these: it has a loss of its
own, and the files, metrics and exports of the one that it extends."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from minbert.data import words
from minbert.data.metrics import micro_f1
from minbert.registry import Registry

Labels = NDArray[Any]
Floats = NDArray[Any]
_DECILES: Final = 10  # strata of the labels of a regression
_FEW: Final = 10  # examples of a combination of labels below which it is no stratum of its own


def _own_base(kind: type) -> Any:
    """The class of this project's problem that a class is or extends."""
    return next(base for base in kind.__mro__ if base.__module__ == __name__)


class SingleLabel:
    """One class for each example: labels int64 [N].

    Attributes:
        name: as in files of results, and for --problem.
        kind: as in the digest of examples.
        metric: the one in runs.csv.
        loss: one of `minbert.training.losses.LOSSES`.
        loss_function: of a plugin's, what computes its loss [] in place of that one, as
            `module:function`, from logits and labels of the same shapes.
        library_type: the `problem_type` of transformers.
    """

    name: ClassVar = "single_label"
    kind: ClassVar = "classification"
    metric: ClassVar = "accuracy"
    loss: ClassVar = "cross-entropy"
    loss_function: ClassVar = ""
    library_type: ClassVar = "single_label_classification"

    @property
    def stored_as(self) -> str:
        """The name of this project's problem that it is or extends."""
        return str(_own_base(type(self)).name)

    def __init_subclass__(cls) -> None:
        """ValueError for a plugin's without a function, or with what has to be that of its base."""
        same = ("kind", "metric", "loss", "library_type")
        base = _own_base(cls)
        if cls is not base and (
            ":" not in cls.loss_function
            or [name for name in same if getattr(cls, name) != getattr(base, name)]
        ):
            raise ValueError(
                f"{cls.__name__} has to have a loss_function as module:function, and "
                f"{', '.join(same)} of {base.__name__}"
            )

    @property
    def whole_loss(self) -> str:
        """The loss with its function, as `minbert.training.losses.loss_of` takes it."""
        return f"{self.loss} {self.loss_function}".strip()

    def read(self, values: Sequence[Any], classes: int) -> Labels:  # noqa: ARG002
        """Labels from what `written` gives."""
        return np.array(values, dtype=np.int64)

    def written(self, label: Any) -> Any:
        """An example's label as JSON: the index of its class, a list of them, or a number."""
        return label.item()

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """The stratum of each example [N], whose shares a split keeps."""
        return labels.astype(np.int64)

    def counts(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """How often each class occurs, [classes]."""
        return np.bincount(labels, minlength=classes)

    def counted(self, labels: Labels, classes: Sequence[str]) -> dict[str, int]:
        """How often each class occurs, for people."""
        counts = self.counts(labels, len(classes)).tolist()
        return dict(zip(classes, counts, strict=True))

    def predicted(self, logits: Floats, labels: Labels) -> Labels:
        """What logits [N, C] predict for examples with these labels. Of two classes with one
        logit, the second is predicted where that is above 0. ValueError if logits and labels do not
        fit each other."""
        _check(logits, len(labels))
        if labels.size and not 0 <= labels.min() <= labels.max() < max(logits.shape[1], 2):
            raise ValueError("there are labels without a logit")
        single = logits.shape[1] == 1
        chosen = logits[:, 0].astype(np.float64) > 0 if single else logits.argmax(axis=1)
        return chosen.astype(np.int64)

    def majority(self, train: Labels, dev: Labels) -> float | None:
        """The dev score without learning: of always predicting the most frequent class, of several
        the first, or the labels that most examples have; None where it is not defined."""
        return float(np.mean(dev == np.bincount(train).argmax()))


class MultiLabel(SingleLabel):
    """Any of several labels for each example: int8 of 0 and 1 [N, C]."""

    name: ClassVar = "multi_label"
    kind: ClassVar = "multi_label"
    metric: ClassVar = "micro_f1"
    loss: ClassVar = "multi-label"
    library_type: ClassVar = "multi_label_classification"

    def read(self, values: Sequence[Any], classes: int) -> Labels:
        matrix = np.zeros((len(values), classes), dtype=np.int8)
        for row, indices in enumerate(values):
            matrix[row, indices] = 1
        return matrix

    def written(self, label: Any) -> Any:
        return np.flatnonzero(label).tolist()

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """The combinations of labels, rare ones together."""
        packed = np.ascontiguousarray(np.packbits(labels.astype(bool), axis=1))
        combinations = packed.view(f"V{packed.shape[1]}")[:, 0]
        _, strata, sizes = np.unique(combinations, return_inverse=True, return_counts=True)
        pooled = np.where(sizes < _FEW, len(sizes), np.arange(len(sizes)))
        return pooled[strata].astype(np.int64)

    def counts(self, labels: Labels, classes: int) -> NDArray[np.int64]:  # noqa: ARG002
        return np.asarray(labels.sum(axis=0))

    def predicted(self, logits: Floats, labels: Labels) -> Labels:
        """The labels whose logit is above 0."""
        _check(logits, len(labels))
        if labels.shape != logits.shape:
            raise ValueError("there are no logits for each label")
        return (logits.astype(np.float64) > 0).astype(np.uint8)

    def majority(self, train: Labels, dev: Labels) -> float | None:
        usual = train.mean(axis=0) - 0.5
        return micro_f1(np.tile(usual, (len(dev), 1)), dev)


class Regression(SingleLabel):
    """A number for each example: float64 [N]; predictions are in the unit of the logits [N, 1]."""

    name: ClassVar = "regression"
    kind: ClassVar = "regression"
    metric: ClassVar = "pearson"
    loss: ClassVar = "mse"
    library_type: ClassVar = "regression"

    def read(self, values: Sequence[Any], classes: int) -> Labels:  # noqa: ARG002
        return np.array(values, dtype=np.float64)

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """Tenths of the numbers in their order."""
        tenths = np.arange(1, _DECILES) / _DECILES
        edges = np.quantile(labels.astype(np.float64), tenths, method="inverted_cdf")
        return np.searchsorted(edges, labels.astype(np.float64)).astype(np.int64)

    def predicted(self, logits: Floats, labels: Labels) -> Labels:
        _check(logits, len(labels))
        return logits[:, 0]

    def majority(self, train: Labels, dev: Labels) -> float | None:  # noqa: ARG002
        return None


class TokenClassification(SingleLabel):
    """A tag for each word, as of `minbert.data.words`: int16 [N, W]; logits are those of words."""

    name: ClassVar = "token_classification"
    kind: ClassVar = "token_classification"
    metric: ClassVar = "entity_f1"
    loss: ClassVar = "words"

    def read(self, values: Sequence[Any], classes: int) -> Labels:  # noqa: ARG002
        return words.padded(values)

    def written(self, label: Any) -> Any:
        return label[label >= 0].tolist()

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """The combinations of types of entities, rare ones together."""
        types = (labels.max(initial=0) + 1) // 2
        has = [((labels - 1) // 2 == kind).any(axis=1) for kind in range(types)]
        return MULTI_LABEL.strata(np.stack([np.zeros(len(labels)), *has], axis=1))

    def counts(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        return np.bincount(labels[labels >= 0], minlength=classes)

    def counted(self, labels: Labels, classes: Sequence[str]) -> dict[str, int]:
        """The number of entities of each type."""
        tags = super().counted(labels, classes)
        return {name[2:]: count for name, count in tags.items() if name.startswith("B-")}

    def predicted(self, logits: Floats, labels: Labels) -> Labels:
        """The tag with the largest logit, as of `words.predicted_tags`."""
        return words.predicted_tags(logits, labels)

    def majority(self, train: Labels, dev: Labels) -> float | None:  # noqa: ARG002
        """0: without an entity."""
        return 0.0


class WordClassification(TokenClassification):
    """One class for each word, such as its part of speech: int32 [N, W]."""

    name: ClassVar = "word_classification"
    metric: ClassVar = "word_accuracy"

    def read(self, values: Sequence[Any], classes: int) -> Labels:
        return super().read(values, classes).astype(words.CLASSES)

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        return np.zeros(len(labels), dtype=np.int64)

    def counted(self, labels: Labels, classes: Sequence[str]) -> dict[str, int]:
        """The number of words of each class."""
        return SingleLabel.counted(self, labels, classes)

    def majority(self, train: Labels, dev: Labels) -> float | None:
        return SingleLabel.majority(self, train[train >= 0], dev[dev >= 0])


def _check(logits: Floats, count: int) -> None:
    if not (logits.ndim == 2 and len(logits) == count and logits.shape[1]):
        raise ValueError("there are no logits for each label")


Problem = SingleLabel
SINGLE_LABEL: Final = SingleLabel()
MULTI_LABEL: Final = MultiLabel()
REGRESSION: Final = Regression()
TOKEN_CLASSIFICATION: Final = TokenClassification()
WORD_CLASSIFICATION: Final = WordClassification()
_ALL: Final = (SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION, WORD_CLASSIFICATION)
PROBLEMS: Final = Registry(SingleLabel, "minbert_bench.problems", _ALL)


def problem_of(labels: Labels) -> Problem:
    """This project's problem of labels, or of predictions in their shape."""
    if labels.dtype.kind == "f":
        return REGRESSION
    if labels.ndim == 1:
        return SINGLE_LABEL
    if not words.are_tags(labels):
        return MULTI_LABEL
    return TOKEN_CLASSIFICATION if labels.dtype == words.ENTITIES else WORD_CLASSIFICATION
