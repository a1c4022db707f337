"""The section on a data set: tables and figures of what checks found. Loads matplotlib."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from bench.analysis.groups import Group
from bench.plan.dataset import CONTROL, Affected, Checks
from bench.plan.metrics import WORDS
from bench.report.drawing import BLUE, ORANGE, Drawing, canvas
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import Table, table
from bench.report.text import plain, shortened
from bench.results.facts import DataFacts, KnownFacts

_MOST_CLASSES: Final = 24  # classes in a figure, the most frequent ones
_LONGEST_NAME: Final = 30
_KINDS: Final = ("leaks", "near_leaks", "conflicts", "duplicates", "near_duplicates", "empty")
_SIDES: Final = ("train", "dev")


def data_section(group: Group, facts: KnownFacts, prefix: str = "") -> list[Section]:
    """The section on a group's examples; none without facts on them, by `data_digest`."""
    data = facts.get(str(group.shared("data_digest")))
    if data is None:
        return []
    data = data.model_copy(update={"task": str(group.shared("task"))})
    stem = f"{prefix}data"
    drawings = [class_shares(data, f"{stem}-classes")] if data.class_counts else []
    heading, *lines = lines_on(data)
    return [Section(stem, "Data", heading, lines, drawings)]


def lines_on(data: DataFacts) -> list[str]:
    """The sizes of a data set and the number of problems with it, then its source and classes, what
    checks found, and lengths, a line each."""
    shares = [train / max(1, data.totals[0]) for train, _ in data.class_counts.values()]
    known = findings(data.checks) if data.checks else []
    return sentences("data", data=data, shares=shares, findings=known)


def findings(checks: Checks) -> list[tuple[str, Affected, str]]:
    """The names of the problems that checks found, with the findings and what to do about them."""
    every = {kind: getattr(checks, kind) for kind in _KINDS} | checks.encoding
    return [
        (phrase("findings", "name", kind), one, phrase("findings", "remedy", kind, CONTROL))
        for kind, one in every.items()
        if one.total
    ]


def tables(data: DataFacts) -> list[Table]:
    every = list[Table]()
    if data.class_counts:
        in_train, in_dev = (max(1, total) for total in data.totals)
        rows = [
            {
                "class": plain(name), "train": train, "train_share": train / in_train,
                "dev": dev, "dev_share": dev / in_dev,
            }
            for name, (train, dev) in data.class_counts.items()
        ]  # fmt: skip
        caption = "Entities by type" if data.problem == WORDS else ""
        every.append(table("data_classes", rows, caption, folded=len(rows) > _MOST_CLASSES))
    every += most_new(data)
    known = findings(data.checks) if data.checks else []
    if known:
        every.append(table("findings", (
            {"finding": name, "train": f.train, "dev": f.dev, "remedy": remedy or None}
            for name, f, remedy in known
        )))  # fmt: skip
    for name, finding, _ in known:
        every.append(table("examples", ({"example": plain(line)} for line in finding.shown), name))
    return [*every, _length_table(data.checks)] if data.checks else every


def most_new(data: DataFacts) -> list[Table]:
    """The most frequent entities of dev that training has not, if there are any."""
    rows = [
        {"type": plain(kind), "entity": plain(words), "count": count}
        for kind, words, count in data.most_new
    ]
    return [table("most_new", rows)] if rows else []


def _length_table(checks: Checks) -> Table:
    return table("lengths", (
        {"unit": lengths.unit, "side": side, **values}
        for lengths in checks.lengths
        for side, values in (("train", lengths.train), ("dev", lengths.dev)) if values
    ))  # fmt: skip


def drawings(data: DataFacts) -> list[Drawing]:
    every = [class_shares(data, "classes")] if data.class_counts else []
    if data.checks is not None:
        every.append(_length_histogram(data.checks))
        if known := findings(data.checks):
            shares = _shares((data.train, data.dev), [(one.train, one.dev) for _, one, _ in known])
            alt = phrase("captions", "findings_alt", data, known)
            names = [name for name, _, _ in known]
            every.append(_bars(names, shares, "findings", alt, phrase("captions", "findings")))
    return every


def class_shares(data: DataFacts, stem: str) -> Drawing:
    """The share of each class in train and in dev; of many classes, the most frequent ones."""
    by_count = sorted(data.class_counts.items(), key=lambda item: -item[1][0])
    frequent = {name for name, _ in by_count[:_MOST_CLASSES]}
    drawn = [(name, counts) for name, counts in data.class_counts.items() if name in frequent]
    names = [shortened(plain(name), _LONGEST_NAME) for name, _ in drawn]
    counts = [counts for _, counts in drawn]
    shares = _shares(data.totals, counts)[: 2 if data.dev else 1]
    caption = phrase("captions", "class_shares", len(shares), len(drawn), len(by_count))
    alt = phrase("captions", "class_shares_alt", names, shares, _SIDES)
    return _bars(names, shares, stem, alt, caption)


def _shares(totals: tuple[int, int], counts: Iterable[tuple[int, int]]) -> list[list[float]]:
    """The shares of train, and of dev, from the counts in both."""
    sides = zip(*counts, strict=True)
    return [[n / max(1, total) for n in side] for side, total in zip(sides, totals, strict=True)]


def _bars(
    names: Sequence[str], shares: Sequence[Sequence[float]], stem: str, alt: str, caption: str
) -> Drawing:
    """Horizontal bars of shares of train and of dev, the first name on top."""
    places = np.arange(len(names))
    with canvas(1.1 + 0.34 * len(names)) as (figure, axes):
        styles = zip(_SIDES, shares, (BLUE, ORANGE), (-0.2, 0.2), strict=False)
        for side, values, colour, shift in styles:
            axes.barh(places + shift, values, 0.36, color=colour, label=side)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("share of the examples")
        figure.legend(loc="outside lower center", ncols=2)
    return Drawing.of(figure, stem, alt, caption)


def _length_histogram(checks: Checks) -> Drawing:
    """The lengths of training examples, in tokens if they are known, with `max_length`."""
    lengths = checks.lengths[-1]
    lefts = lengths.step * np.arange(len(lengths.counts))
    with canvas(3.0) as (figure, axes):
        axes.bar(lefts, lengths.counts, lengths.step, align="edge", color=BLUE, linewidth=0)
        if checks.max_length is not None:
            axes.axvline(checks.max_length, color=ORANGE, linestyle=(0, (4, 2)))
            axes.annotate(
                f"max_length {checks.max_length}", (checks.max_length, 1),
                xycoords=("data", "axes fraction"), xytext=(-4, -4), textcoords="offset points",
                ha="right", va="top", color=ORANGE, fontsize=9,
            )  # fmt: skip
        axes.set_xlim(0, max(lengths.step * len(lengths.counts), (checks.max_length or 0) + 1))
        axes.set(xlabel=lengths.unit, ylabel="training examples")
        axes.grid(visible=False, axis="x")
    alt = phrase("captions", "lengths_alt", lengths)
    longest, end = lengths.train["100"], lengths.step * len(lengths.counts)
    caption = phrase("captions", "lengths", longest) if longest >= end else ""
    return Drawing.of(figure, "lengths", alt, caption)
