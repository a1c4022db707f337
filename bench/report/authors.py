"""The report's part on what the paper's authors measured, beside what was measured here.

`authors.csv` holds the 220 rows of the authors' own benchmark of bert-base-uncased (arXiv
2508.17586), a row for each setting that they published: seconds of a training epoch, peak CUDA
memory allocated in GiB, and dev scores, on SST and STS. Figures are theirs, columns ours.
Paraphrase was not trained in them: its accuracy, and a total of which it is a third, are left out.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, log
from statistics import fmean
from typing import Any, Final

import pandas as pd

from adapters.names import ADAPTER_MODES, LAYER_SETS
from bench.groups import Group, Setting
from bench.report.drawing import GREY, INK, Drawing, canvas, to_svg
from bench.report.figures import COLOURS, MARKERS
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import fixed, times
from bench.schema import MULTITASK
from bench.verdicts import COSTS, column

Row = Mapping[str, float | str | None]

_TEXTS: Final = ("mode", "layers")
_TASKS: Final = {"sst": ("sst", "sst_accuracy"), "sts": ("sts", "sts_pearson")}
_COSTS: Final = {"memory": "peak_gib", "time": "epoch_s"}

_HEADING: Final = "Beside the authors' own figures"
_ABOUT: Final = (
    "The authors of the paper published 220 rows of their own benchmark: bert-base-uncased on a "
    "card, without AMP, an epoch's seconds and peak CUDA memory. What can be compared is what a "
    "mode and layer set costs relative to full fine-tuning in fp32 with the same batch size, and "
    "which layer set scores best. Absolute times, GiB and scores can't: model, data, machine and "
    "kind of memory differ. Theirs are means over ranks and learning rates, ours over ranks; the "
    "scores are the best of theirs and of ours."
)
_GAPS: Final = (
    "Of the 400 rows that the authors planned, 180 are missing without a cause, all of DoRA on "
    "all linear layers among them; each has one seed; and one learning rate serves all modes, "
    "though adapters want about ten times that of full fine-tuning, so their scores compare rates "
    "as much as modes. Their DoRA had one magnitude for each input, not for each output."
)


@dataclass(frozen=True)
class Beside:
    """A mode and layer set: costs relative to full fine-tuning in fp32, and the best score.

    A value that there is not is None.
    """

    mode: str
    layers: str
    theirs: Mapping[str, float | None]
    ours: Mapping[str, float | None]


@cache
def authors() -> tuple[Row, ...]:
    """The authors' rows. Empty fields are None."""
    text = files("bench.report").joinpath("authors.csv").read_text("utf-8")
    return tuple(
        {
            name: None if not value else value if name in _TEXTS else float(value)
            for name, value in row.items()
        }
        for row in csv.DictReader(text.splitlines())
    )


def authors_section(group: Group) -> list[Section]:
    """Costs and order of layer sets beside the authors', where there is something to compare."""
    found = beside(group)
    if not found:
        return []
    batch = group.shared("batch_size")
    said = [_ABOUT, *_agreement(found), _GAPS]
    drawings = [
        _drawing(found, cost)
        for cost in COSTS
        if any(one.ours[cost] is not None and one.theirs[cost] is not None for one in found)
    ]
    caption = f"Relative to full fine-tuning in fp32; theirs with batches of {batch}."
    return [Section("authors", "The authors'", _HEADING, said, drawings, [_table(found, caption)])]


def beside(group: Group) -> list[Beside]:
    """The modes and layer sets that both have, in the group's batch size; none without a baseline
    of both."""
    if group.shared("task") == MULTITASK:  # theirs are of single tasks
        return []
    task, score = _TASKS.get(str(group.shared("task")), _TASKS["sst"])
    batch = group.shared("batch_size")
    rows = [row for row in authors() if row["batch_size"] == batch]
    full = [row for row in rows if row["mode"] == "full"]
    base = group.baseline
    if not full or base is None:
        return []
    found = []
    for mode in ADAPTER_MODES:
        for layers in LAYER_SETS:
            own = [
                s
                for s in group.settings
                if (s.mode, s.layers, s.amp) == (mode, layers, "off") and s.ok and not s.unfreezes
            ]
            if not own:
                continue
            theirs = [row for row in rows if (row["mode"], row["layers"]) == (mode, layers)]
            found.append(
                Beside(
                    mode,
                    layers,
                    {
                        **{cost: _ratio(theirs, full, f"{task}_{_COSTS[cost]}") for cost in COSTS},
                        "score": max((_number(row[score]) for row in theirs), default=None),
                    },
                    {
                        **{cost: _own_ratio(own, base, column(group, cost)) for cost in COSTS},
                        "score": _best(own),
                    },
                )
            )
    return found if any(one.theirs["time"] is not None for one in found) else []


def _number(value: float | str | None) -> float:
    return float(value or 0.0)


def _ratio(rows: Sequence[Row], base: Sequence[Row], name: str) -> float | None:
    """The mean of a column over the mean of full fine-tuning."""
    if not rows:
        return None
    mine, theirs = (fmean(_number(row[name]) for row in of) for of in (rows, base))
    return mine / theirs


def _own_ratio(settings: Sequence[Setting], base: Setting, name: str) -> float | None:
    """The geometric mean over ranks of the ratio to full fine-tuning."""
    unit = base.estimate(name)
    values = [found.value for s in settings if (found := s.estimate(name))]
    if unit is None or not values or min(values) <= 0 or unit.value <= 0:
        return None
    return exp(fmean(log(value / unit.value) for value in values))


def _best(settings: Sequence[Setting]) -> float | None:
    return max((found.value for s in settings if (found := s.estimate("dev_score"))), default=None)


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
        if len(scored) > 1:
            first_theirs = sorted(scored, key=lambda one: -_number(one.theirs["score"]))
            first_here = sorted(scored, key=lambda one: -_number(one.ours["score"]))
            same = "the same" if first_here == first_theirs else f"here {_names(first_here)}"
            said.append(
                f"Scores of {mode} by layer set, best first: theirs {_names(first_theirs)}; {same}."
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


def _drawing(found: Sequence[Beside], cost: str) -> Drawing:
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
        axes.hlines(both.index, both["theirs"], both["ours"], color=GREY, linewidth=1.1)
        for place, row in enumerate(rows.to_dict("records")):
            style: dict[str, Any] = {"color": COLOURS[row["mode"]], "marker": MARKERS[row["mode"]]}
            axes.plot(row["theirs"], place, markerfacecolor="none", markersize=6, **style)
            axes.plot(row["ours"], place, markersize=6, **style)
        axes.set_yticks(range(len(rows)), list(rows["kind"]))
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{cost}, × full fine-tuning in fp32")
    stem = f"authors-{cost}"
    told = "; ".join(
        f"{row['kind']} {row['theirs']:.2f} and {row['ours']:.2f}" for _, row in both.iterrows()
    )
    alt = f"{cost} relative to full fine-tuning, theirs and ours: {told}."
    caption = (
        "Hollow: the authors' figures. Full: this report's. Left of the line is less than full."
    )
    return Drawing(stem, to_svg(figure, stem), alt, caption)
