"""The report's sections on the measurements of the paper's authors, by group."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pandas as pd

from adapters.methods import ADAPTER_MODES
from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS
from bench.report.authors import Comparison, comparisons, theirs_of
from bench.report.drawing import GREY, INK, PAPER, Drawing, canvas, to_svg
from bench.report.figures import COLOURS, MARKERS
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import fixed, times

_HEADING: Final = "Comparison with the authors' figures"
_ABOUT: Final = (
    "The authors of the paper published 220 rows of their own benchmark: bert-base-uncased on a "
    "GPU, without AMP, with seconds of an epoch and peak CUDA memory. Comparable are the costs of "
    "a mode and layer set relative to full fine-tuning in fp32 with the same batch size, and "
    "which layer set scores best. Absolute times, GiB and scores can't: model, data, machine and "
    "kind of memory differ. Theirs are means over all their ranks and learning rates, ours over "
    "those that ran; the scores are the best of theirs and of ours."
)
_PAIRS: Final = (
    "A pair of STS is one sequence here, [CLS] a [SEP] b [SEP], in one pass through the encoder; "
    "theirs encodes the two sentences separately. So an example does not take the same work."
)
_GAPS: Final = (
    "Of the 400 rows that the authors planned, 180 are missing without a stated cause, "
    "including all of DoRA on all linear layers and all of full fine-tuning with batches of more "
    "than 128, so there are no ratios to it there. Each has one seed, and all modes share one "
    "learning rate, although adapters need about ten times that of full fine-tuning, so their "
    "scores compare rates as much as modes. Their DoRA had one magnitude for each input, not for "
    "each output. Their all-lin left the attention's output layer out, which ours includes."
)
_SEE: Final = f"“{_HEADING}” above explains what can be compared."


def authors_section(groups: Sequence[Group]) -> list[Section]:
    """The first group's comparison with the authors' figures, and what can be compared at all.

    It is there if any of the groups can be compared, and names the others that can.
    """
    compared = [comparisons(group) for group in groups]
    numbers = [number for number, part in enumerate(compared, start=1) if part]
    if not numbers:
        return []
    tasks = {groups[number - 1].shared("task") for number in numbers}
    pairs = [_PAIRS] if "sts" in tasks else []
    sentences = [_ABOUT, *_agreement(compared[0]), *pairs, _GAPS, *_elsewhere(numbers)]
    return [_section(groups[0], compared[0], sentences, "", drawn=True)]


def group_section(group: Group, prefix: str, *, drawn: bool) -> list[Section]:
    """A later group's comparison with the authors' figures, if it can be compared.

    Args:
        prefix: of its anchor and its figures.
        drawn: whether it has figures, or its table alone.
    """
    compared = comparisons(group)
    if not compared:
        return []
    return [_section(group, compared, [*_agreement(compared), _SEE], prefix, drawn=drawn)]


def _section(
    group: Group,
    compared: Sequence[Comparison],
    sentences: Sequence[str],
    prefix: str,
    *,
    drawn: bool,
) -> Section:
    drawings = [
        _drawing(compared, cost, prefix) for cost in COSTS if drawn and _both(compared, cost)
    ]
    task, _ = theirs_of(group)
    caption = (
        f"Relative to full fine-tuning in fp32; theirs on {task.upper()}, with batches of "
        f"{group.shared('batch_size')}."
    )
    return Section(
        f"{prefix}authors", "The authors'", _HEADING, sentences, drawings,
        [_table(compared, caption)] if compared else [],
    )  # fmt: skip


def _elsewhere(numbers: Sequence[int]) -> list[str]:
    """A sentence on the groups after the first that can be compared."""
    later = [str(number) for number in numbers if number > 1]
    if not later:
        return []
    first = "" if 1 in numbers else "Nothing of the first group can be compared. "
    names = f"group{'s' if len(later) > 1 else ''} {', '.join(later)}"
    return [f"{first}Figures of {names} are compared with theirs further below."]


def _both(compared: Sequence[Comparison], name: str) -> list[tuple[float, float]]:
    """Our value and theirs, where both exist."""
    return [
        (ours, theirs)
        for one in compared
        if (ours := one.ours[name]) is not None and (theirs := one.theirs[name]) is not None
    ]


def _agreement(compared: Sequence[Comparison]) -> list[str]:
    """Sentences on agreement: of costs on the side of full fine-tuning, of scores on the order of
    layer sets."""
    sentences = []
    for cost in COSTS:
        if both := _both(compared, cost):
            alike = sum((ours < 1) == (theirs < 1) for ours, theirs in both)
            below = sum(theirs < 1 for _, theirs in both)
            sentences.append(
                f"{cost.capitalize()}: below full fine-tuning in {below} of {len(both)} in their "
                f"rows and in {sum(ours < 1 for ours, _ in both)} here; on the same side of it in "
                f"{alike}."
            )
    for mode in ADAPTER_MODES:
        scored = [one for one in compared if one.mode == mode and _both([one], "score")]
        if len(scored) > 1 and any(one.learned for one in scored):
            first_theirs = sorted(scored, key=lambda one: -(one.theirs["score"] or 0))
            first_here = sorted(scored, key=lambda one: -(one.ours["score"] or 0))
            same = "the same" if first_here == first_theirs else f"here {_names(first_here)}"
            unlearned = _names([one for one in first_here if not one.learned])
            doubt = f" Flagged here as not learned: {unlearned}." if unlearned else ""
            sentences.append(
                f"Scores of {mode} by layer set, best first: theirs {_names(first_theirs)}; {same}."
                f"{doubt}"
            )
    return sentences


def _names(compared: Sequence[Comparison]) -> str:
    return ", ".join(one.layers for one in compared)


def _table(compared: Sequence[Comparison], caption: str) -> Table:
    heads = [Head("mode", "mode"), Head("layers", "layers")]
    for cost in COSTS:
        heads += [
            Head(f"{cost}_theirs", f"{cost}, theirs", "× full fine-tuning", True),
            Head(f"{cost}_ours", f"{cost}, here", "× full fine-tuning", True),
        ]
    heads += [
        Head(
            "score_theirs",
            "best score, theirs",
            "on other data, so only its order is comparable",
            True,
        ),
        Head("score_ours", "best score, here", "", True),
    ]

    def shown(value: float | None, shape: Callable[[float], str] = times) -> str:
        return DASH if value is None else shape(value)

    rows = [
        [
            one.mode, one.layers,
            *(shown(side[cost]) for cost in COSTS for side in (one.theirs, one.ours)),
            *(shown(side["score"], fixed) for side in (one.theirs, one.ours)),
        ]
        for one in compared
    ]  # fmt: skip
    return Table(heads, rows, caption)


def _drawing(compared: Sequence[Comparison], cost: str, prefix: str) -> Drawing:
    """A cost relative to full fine-tuning, theirs hollow and ours filled, by mode and layer set."""
    rows = pd.DataFrame(
        [
            {"kind": f"{one.mode} {one.layers}", "mode": one.mode, "theirs": one.theirs[cost],
             "ours": one.ours[cost]}
            for one in compared
        ]
    ).astype({"theirs": float, "ours": float})  # fmt: skip
    with canvas(0.9 + 0.3 * max(len(rows), 2)) as (figure, axes):
        axes.axvline(1, color=INK, linewidth=1)
        both = rows.dropna(subset=["theirs", "ours"])
        axes.hlines(both.index, both["theirs"], both["ours"], color=GREY, linewidth=1.1, zorder=1.5)
        for place, row in enumerate(rows.to_dict("records")):
            style: dict[str, Any] = {"color": COLOURS[row["mode"]], "marker": MARKERS[row["mode"]]}
            axes.plot(row["theirs"], place, markerfacecolor=PAPER, markersize=6, **style)
            axes.plot(row["ours"], place, markersize=6, **style)
        axes.set_yticks(range(len(rows)), list(rows["kind"]))
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{cost}, × full fine-tuning in fp32")
    stem = f"{prefix}authors-{cost}"
    values = "; ".join(
        f"{row['kind']} {row['theirs']:.2f} and {row['ours']:.2f}" for _, row in both.iterrows()
    )
    alt = f"{cost} relative to full fine-tuning, theirs and ours: {values}."
    caption = (
        "Hollow: the authors' figures. Filled: this report's. Left of the line: less than full "
        "fine-tuning."
    )
    return Drawing(stem, to_svg(figure, stem), alt, caption)
