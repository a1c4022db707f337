"""The report's section on a data set, and the tables and figures of what checks of it found.

Importing this loads matplotlib.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.analysis.groups import Group
from bench.plan.findings import CONTROL, Affected, Checks, Lengths
from bench.report.drawing import BLUE, ORANGE, Drawing, canvas, to_svg
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, plain, shortened
from bench.results.facts import DataFacts

_MOST_CLASSES: Final = 24
"""Classes in a figure, the most frequent ones."""
_LONGEST_NAME: Final = 30
_ENCODING: Final = "the text was garbled before it was saved; repair it, for example with ftfy"
_SIDES: Final = ("train", "dev")
_DROP: Final = "--drop-leaks leaves them out"


def data_section(group: Group, facts: Mapping[str, DataFacts], prefix: str = "") -> list[Section]:
    """The section on a group's examples; none without facts on them.

    Args:
        facts: by `data_digest`.
    """
    data = facts.get(str(group.shared("data_digest")))
    if data is None:
        return []
    data = data.model_copy(update={"task": str(group.shared("task"))})
    stem = f"{prefix}data"
    drawings = [class_shares(data, f"{stem}-classes")] if data.class_counts else []
    return [Section(stem, "Data", heading(data), sentences(data), drawings)]


def heading(data: DataFacts) -> str:
    """The sizes of a data set, and the number of problems with it."""
    sizes = f"{data.train:,} training and {data.dev:,} dev examples"
    if not data.dev:
        sizes = f"{data.train:,} examples in folds"
    if data.checks is None:
        return f"Data: {sizes}"
    return f"Data: {sizes}, {count(len(findings(data.checks)), 'finding')}"


def sentences(data: DataFacts) -> list[str]:
    """The source and the classes of a data set, what checks found, and lengths, a line each."""
    source = f"Source: {plain(data.source)}. " if data.source else ""
    lines = [f"{source}Task {plain(data.task)}, {data.problem.replace('_', ' ')}{_classes(data)}."]
    if (majority := data.majority) is not None:
        name, share = majority
        lines.append(
            f"Always predicting the most frequent training class, {plain(name)}, scores an "
            f"accuracy of {share:.3f}{' on dev' if data.dev else ''}."
        )
    if caution := data.caution("macro_f1"):
        lines.append(f"Warning: {plain(caution)}; likewise of other metrics by class.")
    checks = data.checks
    if checks is None:
        return lines
    lines += [
        f"{name}: {_numbers(data, finding)}{f'; {remedy}' if remedy else ''}."
        for name, finding, remedy in findings(checks)
    ] or ["Checks found nothing: no duplicates, leaks, conflicting labels or encoding errors."]
    if checks.compared < checks.distinct:
        lines.append(
            f"Near duplicates were searched on a sample of {checks.compared:,} of the "
            f"{checks.distinct:,} distinct texts."
        )
    if checks.max_length is not None and checks.tokens_cut is not None:
        cut = f"{checks.tokens_cut:.1%} of the tokens" if checks.tokens_cut else "nothing"
        lines.append(
            f"max_length {checks.max_length} cuts {cut} of training; --max-length auto takes it."
        )
    return lines


def _classes(data: DataFacts) -> str:
    if not data.class_counts:
        return ""
    shares = sorted(counts[0] / max(1, data.train) for counts in data.class_counts.values())
    return (
        f", {count(len(shares), 'class', 'classes')} with {shares[0]:.1%} to {shares[-1]:.1%} of "
        f"the {'training ' if data.dev else ''}examples"
    )


def findings(checks: Checks) -> list[tuple[str, Affected, str]]:
    """The names of the problems that checks found, with the findings and what to do about them."""
    every = [
        ("Dev texts in training", checks.leaks, _DROP),
        ("Near duplicates of dev texts in training", checks.near_leaks, _DROP),
        ("Equal texts with different labels", checks.conflicts, "look at their labels"),
        ("Repeated texts", checks.duplicates, "remove repeats if they are not meant"),
        ("Texts with a near duplicate on their side", checks.near_duplicates, ""),
        ("Empty texts", checks.empty, "leave them out of the file"),
        *(
            (name[0].upper() + name[1:], finding, "" if name == CONTROL else _ENCODING)
            for name, finding in checks.encoding.items()
        ),
    ]
    return [(name, finding, remedy) for name, finding, remedy in every if finding.total]


def _numbers(data: DataFacts, finding: Affected) -> str:
    if not data.dev:
        return count(finding.total, "example")
    sides = (("train", finding.train), ("dev", finding.dev))
    return " and ".join(f"{number:,} in {side}" for side, number in sides if number)


def tables(data: DataFacts) -> list[Table]:
    """The classes, the findings, some examples of each, and the lengths."""
    every = []
    if data.class_counts:
        every.append(_class_table(data))
    if data.checks is not None:
        every += [*_finding_tables(data.checks), _length_table(data.checks)]
    return every


def _class_table(data: DataFacts) -> Table:
    def share(number: int, total: int) -> str:
        return f"{number / max(1, total):.1%}"

    heads = [
        Head("class", "class"),
        Head("train", "train", "", True), Head("train_share", "share", "", True),
        Head("dev", "dev", "", True), Head("dev_share", "share", "", True),
    ]  # fmt: skip
    rows = [
        [plain(name), f"{train:,}", share(train, data.train), f"{dev:,}", share(dev, data.dev)]
        for name, (train, dev) in data.class_counts.items()
    ]
    return Table(heads, rows, "Classes", folded=len(rows) > _MOST_CLASSES)


def _finding_tables(checks: Checks) -> list[Table]:
    found = findings(checks)
    if not found:
        return []
    heads = [
        Head("finding", "finding"), Head("train", "train", "", True), Head("dev", "dev", "", True),
        Head("remedy", "what to do"),
    ]  # fmt: skip
    rows = [[name, f"{f.train:,}", f"{f.dev:,}", remedy or DASH] for name, f, remedy in found]
    examples = [
        Table([Head("example", "example")], [[plain(line)] for line in finding.shown], name)
        for name, finding, _ in found
    ]
    return [Table(heads, rows, "What checks found"), *examples]


def _length_table(checks: Checks) -> Table:
    names = list(checks.lengths[0].train)
    heads = [Head("unit", "length in"), Head("side", "of")]
    heads += [Head(name, "longest" if name == "100" else f"{name}%", "", True) for name in names]
    rows = [
        [lengths.unit, side, *(f"{values[name]:,}" for name in names)]
        for lengths in checks.lengths
        for side, values in (("train", lengths.train), ("dev", lengths.dev))
        if values
    ]
    return Table(heads, rows, "Length percentiles")


def drawings(data: DataFacts) -> list[Drawing]:
    """The figures of a data set: its classes, lengths and findings."""
    every = [class_shares(data, "classes")] if data.class_counts else []
    if data.checks is not None:
        every.append(length_histogram(data.checks, "lengths"))
        if found := findings(data.checks):
            every.append(_finding_bars(data, found, "findings"))
    return every


def class_shares(data: DataFacts, stem: str) -> Drawing:
    """The share of each class in train and in dev; of many classes, the most frequent ones."""
    by_count = sorted(data.class_counts.items(), key=lambda item: -item[1][0])
    frequent = {name for name, _ in by_count[:_MOST_CLASSES]}
    drawn = [(name, counts) for name, counts in data.class_counts.items() if name in frequent]
    names = [shortened(plain(name), _LONGEST_NAME) for name, _ in drawn]
    shares = [
        [counts[side] / max(1, total) for _, counts in drawn]
        for side, total in enumerate((data.train, data.dev))
    ]
    caption = "Share of the examples of each side in each class."
    if not data.dev:
        shares, caption = shares[:1], "Share of the examples in each class."
    if len(drawn) < len(by_count):
        caption += f" The {len(drawn)} most frequent of {len(by_count):,} classes."
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{share:.1%} of {side}" for share, side in pairs)
        for name, *own in zip(names, *shares, strict=True)
        for pairs in [zip(own, _SIDES, strict=False)]
    )
    return _bars(names, shares, stem, f"Class shares. {alt}.", caption)


def _finding_bars(
    data: DataFacts, findings: Sequence[tuple[str, Affected, str]], stem: str
) -> Drawing:
    names = [name for name, _, _ in findings]
    train, dev = max(1, data.train), max(1, data.dev)
    shares = [
        [one.train / train for _, one, _ in findings],
        [one.dev / dev for _, one, _ in findings],
    ]
    alt = "; ".join(f"{name}: {_numbers(data, finding)}" for name, finding, _ in findings)
    caption = "Share of the examples of each side. Near duplicates count distinct texts."
    return _bars(names, shares, stem, f"Findings. {alt}.", caption)


def _bars(
    names: Sequence[str], shares: Sequence[Sequence[float]], stem: str, alt: str, caption: str
) -> Drawing:
    """Horizontal bars of shares of train and of dev, the first name on top."""
    places = np.arange(len(names))
    with canvas(1.1 + 0.34 * len(names)) as (figure, axes):
        for side, values, colour, shift in zip(
            _SIDES, shares, (BLUE, ORANGE), (-0.2, 0.2), strict=False
        ):
            axes.barh(places + shift, values, 0.36, color=colour, label=side)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("share of the examples")
        figure.legend(loc="outside lower center", ncols=2)
    return Drawing(stem, to_svg(figure, stem), alt, caption)


def length_histogram(checks: Checks, stem: str) -> Drawing:
    """The lengths of training examples, in tokens if they are known, with `max_length`."""
    lengths: Lengths = checks.lengths[-1]
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
        axes.set_xlabel(lengths.unit)
        axes.set_ylabel("training examples")
        axes.grid(visible=False, axis="x")
    percentiles = ", ".join(f"{name}%: {value:,}" for name, value in lengths.train.items())
    alt = f"Histogram of the lengths of training examples in {lengths.unit}. {percentiles}."
    longest, end = lengths.train["100"], lengths.step * len(lengths.counts)
    longer = f"The last bar has all that are longer; the longest has {longest:,}."
    caption = longer if longest >= end else ""
    return Drawing(stem, to_svg(figure, stem), alt, caption)
