"""The report's part on what the paper's authors measured: for each group that can be compared."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pandas as pd

from adapters.methods import ADAPTER_MODES
from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS
from bench.report.authors import Beside, beside, theirs_of
from bench.report.drawing import GREY, INK, PAPER, Drawing, canvas, to_svg
from bench.report.figures import COLOURS, MARKERS
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import fixed, times

_HEADING: Final = "Beside the authors' own figures"
_ABOUT: Final = (
    "The authors of the paper published 220 rows of their own benchmark: bert-base-uncased on a "
    "GPU, without AMP, an epoch's seconds and peak CUDA memory. What can be compared is what a "
    "mode and layer set costs relative to full fine-tuning in fp32 with the same batch size, and "
    "which layer set scores best. Absolute times, GiB and scores can't: model, data, machine and "
    "kind of memory differ. Theirs are means over all their ranks and learning rates, ours over "
    "those that ran; the scores are the best of theirs and of ours."
)
_PAIRS: Final = (
    "A pair of STS is one sequence here, [CLS] a [SEP] b [SEP] through one encoder; theirs encodes "
    "both sentences by themselves. So the work for an example isn't the same."
)
_GAPS: Final = (
    "Of the 400 rows that the authors planned, 180 are missing without a cause: among them all of "
    "DoRA on all linear layers, and all of full fine-tuning with batches of more than 128, so "
    "nothing can be relative to it there. Each has one seed; and one learning rate serves all "
    "modes, though adapters want about ten times that of full fine-tuning, so their scores compare "
    "rates as much as modes. Their DoRA had one magnitude for each input, not for each output. "
    "Their all-lin left the attention's output layer out, which ours has."
)
_SEE: Final = f"What can be compared, and what can't, is said above, under “{_HEADING}”."


def authors_section(groups: Sequence[Group]) -> list[Section]:
    """What can be compared with the authors' figures, and the first group beside them.

    It is there if any of the groups has something beside theirs, and says which others have.
    """
    founds = [beside(group) for group in groups]
    numbers = [number for number, found in enumerate(founds, start=1) if found]
    if not numbers:
        return []
    tasks = {groups[number - 1].shared("task") for number in numbers}
    pairs = [_PAIRS] if "sts" in tasks else []
    said = [_ABOUT, *_agreement(founds[0]), *pairs, _GAPS, *_elsewhere(numbers)]
    return [_section(groups[0], founds[0], said, "", drawn=True)]


def group_section(group: Group, prefix: str, *, drawn: bool) -> list[Section]:
    """A later group beside the authors' figures, if it has the like.

    Args:
        prefix: of its anchor and its figures.
        drawn: whether it has figures, or its table alone.
    """
    found = beside(group)
    if not found:
        return []
    return [_section(group, found, [*_agreement(found), _SEE], prefix, drawn=drawn)]


def _section(
    group: Group, found: Sequence[Beside], said: Sequence[str], prefix: str, *, drawn: bool
) -> Section:
    drawings = [
        _drawing(found, cost, prefix)
        for cost in COSTS
        if drawn
        and any(one.ours[cost] is not None and one.theirs[cost] is not None for one in found)
    ]
    task, _ = theirs_of(group)
    caption = (
        f"Relative to full fine-tuning in fp32; theirs on {task.upper()}, with batches of "
        f"{group.shared('batch_size')}."
    )
    return Section(
        f"{prefix}authors", "The authors'", _HEADING, said, drawings,
        [_table(found, caption)] if found else [],
    )  # fmt: skip


def _elsewhere(numbers: Sequence[int]) -> list[str]:
    """Which groups after the first stand beside theirs."""
    later = [str(number) for number in numbers if number > 1]
    if not later:
        return []
    first = "" if 1 in numbers else "Nothing of the first group can be compared. "
    named = f"group{'s' if len(later) > 1 else ''} {', '.join(later)}"
    return [f"{first}Figures of {named} stand beside theirs further below."]


def _agreement(found: Sequence[Beside]) -> list[str]:
    """Sentences on whether costs agree on which side of full fine-tuning they are, and scores on
    the order of layer sets."""
    said = []
    for cost in COSTS:
        both = [
            (ours, theirs)
            for one in found
            if (ours := one.ours[cost]) is not None and (theirs := one.theirs[cost]) is not None
        ]
        if both:
            alike = sum((ours < 1) == (theirs < 1) for ours, theirs in both)
            below = sum(theirs < 1 for _, theirs in both)
            said.append(
                f"{cost.capitalize()}: below full fine-tuning in {below} of {len(both)} in their "
                f"rows and in {sum(ours < 1 for ours, _ in both)} here; on the same side of it in "
                f"{alike}."
            )
    for mode in ADAPTER_MODES:
        scored = [one for one in found if one.mode == mode and _scores(one)]
        if len(scored) > 1 and any(one.learned for one in scored):
            first_theirs = sorted(scored, key=lambda one: -(one.theirs["score"] or 0))
            first_here = sorted(scored, key=lambda one: -(one.ours["score"] or 0))
            same = "the same" if first_here == first_theirs else f"here {_names(first_here)}"
            flat = _names([one for one in first_here if not one.learned])
            doubt = f" Flagged here as not learned: {flat}." if flat else ""
            said.append(
                f"Scores of {mode} by layer set, best first: theirs {_names(first_theirs)}; {same}."
                f"{doubt}"
            )
    return said


def _names(found: Sequence[Beside]) -> str:
    return ", ".join(one.layers for one in found)


def _scores(one: Beside) -> bool:
    return one.theirs["score"] is not None and one.ours["score"] is not None


def _table(found: Sequence[Beside], caption: str) -> Table:
    heads = [Head("mode", "mode"), Head("layers", "layers")]
    for cost in COSTS:
        heads += [
            Head(f"{cost}_theirs", f"{cost}, theirs", "× full fine-tuning", True),
            Head(f"{cost}_ours", f"{cost}, here", "× full fine-tuning", True),
        ]
    heads += [
        Head(
            "score_theirs", "best score, theirs", "on other data: only its order means much", True
        ),
        Head("score_ours", "best score, here", "", True),
    ]

    def shown(value: float | None, shape: Callable[[float], str]) -> str:
        return DASH if value is None else shape(value)

    rows = [
        [
            one.mode, one.layers,
            *(shown(side[cost], times) for cost in COSTS for side in (one.theirs, one.ours)),
            *(shown(side["score"], fixed) for side in (one.theirs, one.ours)),
        ]
        for one in found
    ]  # fmt: skip
    return Table(heads, rows, caption)


def _drawing(found: Sequence[Beside], cost: str, prefix: str) -> Drawing:
    """A cost relative to full fine-tuning, theirs hollow and ours full, by mode and layer set."""
    rows = pd.DataFrame(
        [
            {"kind": f"{one.mode} {one.layers}", "mode": one.mode, "theirs": one.theirs[cost],
             "ours": one.ours[cost]}
            for one in found
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
    told = "; ".join(
        f"{row['kind']} {row['theirs']:.2f} and {row['ours']:.2f}" for _, row in both.iterrows()
    )
    alt = f"{cost} relative to full fine-tuning, theirs and ours: {told}."
    caption = (
        "Hollow: the authors' figures. Full: this report's. Left of the line is less than full."
    )
    return Drawing(stem, to_svg(figure, stem), alt, caption)
