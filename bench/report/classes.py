"""The report's section on classes: of a setting's predictions the precision, recall and F1 of each
class or label, and which classes are taken for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.report import text
from bench.report.drawing import BLUE, Drawing, canvas, to_svg
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome
from minbert.data.tasks import TASKS

_MOST_CLASSES: Final = 50
"""Classes in the table."""
_MOST_DRAWN: Final = 20
"""Classes in the figure of confusions; of more, the most frequent pairs are in a table."""
_LONGEST: Final = 24
"""Characters of a class's name in a figure."""


@dataclass(frozen=True)
class Names:
    """The names of a group's classes."""

    group: Group
    facts: DataFacts | None

    def __call__(self, index: int) -> str:
        """The name of a class; its number where names are not known."""
        task = TASKS.get(str(self.group.shared("task")))
        names = (self.facts and self.facts.classes) or (task.classes if task else ())
        return text.plain(names[index]) if 0 <= index < len(names) else str(index)


def over(outcomes: Sequence[Outcome]) -> str:
    """The numbers of examples and seeds that predictions are of."""
    examples = text.count(len(outcomes[0].predicted), "dev example")
    return f"{examples} and {text.count(len(outcomes), 'seed')}"


def classes_section(setting: Setting, outcomes: Sequence[Outcome], names: Names) -> Section | None:
    """Precision, recall and F1 of each class, and which are taken for which."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels = np.concatenate([one.labels for one in outcomes if one.labels is not None])
    predicted = np.concatenate([one.predicted for one in outcomes])
    if not labels.size:
        return None
    what, noun = ("class", "Classes") if labels.ndim == 1 else ("label", "Labels")
    every = np.union1d(labels, predicted) if labels.ndim == 1 else np.arange(labels.shape[1])
    (precision, recall, f1, true), (*_, predictions) = (
        precision_recall_fscore_support(*pair, labels=every, zero_division=0)
        for pair in ((labels, predicted), (predicted, labels))
    )
    used = np.flatnonzero(true + predictions)
    present = used[true[used] > 0]
    if not len(present):
        return None

    def end(value: float) -> str:
        alike = present[np.round(f1[present], 2) == round(value, 2)]
        several = text.count(len(alike), what, noun.lower())
        return f"{value:.2f} ({names(int(every[alike[0]])) if len(alike) == 1 else several})"

    low, high = end(f1[present].min()), end(f1[present].max())
    heading = f"{noun}: with {setting.label} F1 is from {low} to {high}"
    shown = sorted(used, key=lambda index: -true[index])[:_MOST_CLASSES]
    most = len(used) > len(shown)
    seeds = len(outcomes)

    heads = [
        Head("class", what), Head("support", "examples", f"dev examples with this {what}", True),
        Head("predicted", "predicted", "predictions of it, for a seed on average", True),
        Head("precision", "precision", "share of its predictions that are right", True),
        Head("recall", "recall", "share of its examples that are predicted so", True),
        Head("f1", "F1", "harmonic mean of precision and recall", True),
    ]  # fmt: skip
    rows = [
        [
            names(int(every[i])), f"{true[i] // seeds:,}",
            f"{predictions[i]:,}" if seeds == 1 else text.num(predictions[i] / seeds),
            text.fixed(precision[i]) if predictions[i] else DASH,
            text.fixed(recall[i]) if true[i] else DASH, text.fixed(f1[i]),
        ]
        for i in (shown if most else sorted(shown))
    ]  # fmt: skip
    caption = f"Over {over(outcomes)}."
    if most:
        caption += f" The {len(shown)} with most examples of {len(used):,}."
    tables = [Table(heads, rows, caption)]
    drawings = []
    sentences = [f"Of the setting that scores best, {setting.label}, all its seeds together."]
    if labels.ndim == 1:
        if len(used) <= _MOST_DRAWN:
            shares = confusion_matrix(labels, predicted, labels=every, normalize="true")
            drawings.append(_confusion(shares, [names(int(index)) for index in every], outcomes))
        elif (labels != predicted).any():
            tables.append(_confused(labels, predicted, names))
    return Section("classes", "Classes", heading, sentences, drawings, tables)


def _confused(labels: NDArray[np.generic], predicted: NDArray[np.generic], names: Names) -> Table:
    """The pairs of classes that are confused most."""
    pairs = pd.DataFrame({"true": labels, "predicted": predicted})
    examples = pairs["true"].value_counts()
    wrong = pairs[pairs["true"] != pairs["predicted"]].groupby(["true", "predicted"]).size()
    most = wrong.sort_values(ascending=False, kind="stable")[:_MOST_DRAWN]
    rows = [
        [
            names(pair["true"]), names(pair["predicted"]), f"{pair['count']:,}",
            f"{pair['count'] / examples[pair['true']]:.1%}",
        ]
        for pair in most.reset_index(name="count").to_dict("records")
    ]  # fmt: skip
    heads = [
        Head("true", "class"), Head("predicted", "taken for"),
        Head("count", "predictions", "over all seeds", True),
        Head("share", "of the class", "share of the class's examples", True),
    ]  # fmt: skip
    return Table(heads, rows, f"The {len(rows)} most frequent confusions.")


def _confusion(
    shares: NDArray[np.float64], names: Sequence[str], outcomes: Sequence[Outcome]
) -> Drawing:
    """The confusion matrix: shares of each true class, in percent."""
    number = len(names)
    size = 7.5 if number <= 12 else 6.0
    with canvas(1.6 + 0.24 * max(number, 6)) as (figure, axes):
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            share = shares[row, column]
            cell = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(cell, 1, 1, facecolor=BLUE, alpha=0.75 * share, linewidth=0))
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size)
        axes.set_xlim(-0.5, number - 0.5)
        axes.set_ylim(number - 0.5, -0.5)
        axes.grid(visible=False)
        short = [text.shortened(name, _LONGEST) for name in names]
        axes.set_xticks(range(number), short, rotation=90 if number > 6 else 30,
                        ha="center" if number > 6 else "right", fontsize=size + 1)  # fmt: skip
        axes.set_yticks(range(number), short, fontsize=size + 1)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    right = "; ".join(f"{n} {s:.0%}" for n, s in zip(names, shares.diagonal(), strict=True))
    return Drawing(
        "confusion", to_svg(figure, "confusion"),
        f"Confusion matrix. Predicted right of each class: {right}.",
        f"Percent of each true class, by rows, over {over(outcomes)}; below 0.5% empty.",
    )  # fmt: skip
