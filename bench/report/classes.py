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
from bench.report.pages import phrase
from bench.report.sections import Section
from bench.report.tables import Table, table
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
    rows = [
        {
            "class": names(int(every[i])), "support": f"{true[i] // seeds:,}",
            "predicted": f"{predictions[i]:,}" if seeds == 1 else text.num(predictions[i] / seeds),
            "precision": text.fixed(precision[i]) if predictions[i] else None,
            "recall": text.fixed(recall[i]) if true[i] else None, "f1": text.fixed(f1[i]),
        }
        for i in (shown if most else sorted(shown))
    ]  # fmt: skip
    caption = phrase(
        "captions", "classes", len(outcomes[0].predicted), seeds, len(shown), len(used)
    )
    tables = [table("classes", rows, caption, words={"what": what})]
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
        {
            "true": names(pair["true"]), "predicted": names(pair["predicted"]),
            "count": f"{pair['count']:,}", "share": f"{pair['count'] / examples[pair['true']]:.1%}",
        }
        for pair in most.reset_index(name="count").to_dict("records")
    ]  # fmt: skip
    return table("confused", rows, f"The {len(rows)} most frequent confusions.")


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
        axes.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5))
        axes.grid(visible=False)
        short = [text.shortened(name, _LONGEST) for name in names]
        axes.set_xticks(range(number), short, rotation=90 if number > 6 else 30,
                        ha="center" if number > 6 else "right", fontsize=size + 1)  # fmt: skip
        axes.set_yticks(range(number), short, fontsize=size + 1)
        axes.set(xlabel="predicted", ylabel="true")
    right = "; ".join(f"{n} {s:.0%}" for n, s in zip(names, shares.diagonal(), strict=True))
    caption = phrase("captions", "confusion", len(outcomes[0].predicted), len(outcomes))
    alt = f"Confusion matrix. Predicted right of each class: {right}."
    return Drawing("confusion", to_svg(figure, "confusion"), alt, caption)
