"""The report's section on the measurements of the paper's authors, compared with those made here.

`authors.csv` holds the 220 rows of the authors' own benchmark of bert-base-uncased (arXiv
2508.17586), a row for each setting that they published: seconds of a training epoch, peak CUDA
memory allocated in GiB, and dev scores, on SST and STS. The numbers are theirs, the columns ours.
They did not train paraphrase, so its accuracy and the total that includes it are left out.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd

from adapters.methods import ADAPTER_MODES
from adapters.names import LAYER_SETS
from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS, compare
from bench.plan.cell import MULTITASK
from bench.plan.metrics import ROW_METRICS
from bench.report.drawing import GREY, INK, PAPER, Drawing, canvas, to_svg
from bench.report.figures import COLOURS, MARKERS
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import fixed, times

_SCORES: Final = {"sst": "sst_accuracy", "sts": "sts_pearson"}
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


@cache
def authors() -> pd.DataFrame:
    """The authors' rows. Not to be changed."""
    with files("bench.report").joinpath("authors.csv").open() as file:
        return pd.read_csv(file)


def task_of(group: Group) -> str:
    """The authors' task that a group is compared with."""
    task = str(group.shared("task"))
    return task if task in _SCORES else "sst"


def comparisons(group: Group) -> pd.DataFrame:
    """A row for each mode and layer set that both have, in the group's batch size.

    `memory`, `time` and `score` are each followed by `_theirs` or `_ours`: costs relative to full
    fine-tuning in fp32 (theirs the mean over ranks and rates, ours the geometric mean), and the
    best score. `learned` is False if all of our settings are flagged as having learned nothing, so
    that their score is chance. Empty without a baseline on both sides, and for a task of several
    parts, which they lack.
    """
    rows = authors()[authors()["batch_size"] == group.shared("batch_size")]
    own = [s for s in group.settings if s.adapted and s.amp == "off" and s.ok and not s.unfreezes]
    full, base = rows[rows["mode"] == "full"], group.baseline
    if group.shared("task") == MULTITASK or full.empty or base is None or not own:
        return pd.DataFrame()
    task = task_of(group)
    published = {"memory": f"{task}_peak_gib", "time": f"{task}_epoch_s", "score": _SCORES[task]}
    by_kind = rows.groupby(["mode", "layers"])
    estimates = pd.DataFrame({
        "score": [s.estimate("dev_score") for s in own],
        **{cost: [compare(group, cost, s, base) for s in own] for cost in COSTS},
    })  # fmt: skip
    values = estimates.map(lambda one: one.value if one else None).astype(float)
    ours = values.assign(
        mode=[s.mode for s in own], layers=[s.layers or "" for s in own],
        learned=[s.learned for s in own],
    )  # fmt: skip
    ours[[*COSTS]] = np.log(ours[[*COSTS]])
    grouped = ours.groupby(["mode", "layers"])
    compared = pd.DataFrame({"learned": grouped["learned"].any()})
    for cost in COSTS:
        compared[f"{cost}_theirs"] = by_kind[published[cost]].mean() / full[published[cost]].mean()
        compared[f"{cost}_ours"] = np.exp(grouped[cost].mean())
    compared["score_theirs"] = by_kind[published["score"]].max()
    same = group.metric in ROW_METRICS
    compared["score_ours"] = grouped["score"].max() if same else float("nan")
    order = [kind for kind in product(ADAPTER_MODES, LAYER_SETS) if kind in compared.index]
    compared = compared.loc[order].reset_index()
    return compared if compared["time_theirs"].notna().any() else compared[:0]


def authors_section(groups: Sequence[Group]) -> list[Section]:
    """The first group's comparison with the authors' figures, and what can be compared at all.

    It is there if any of the groups can be compared, and names the others that can.
    """
    compared = [comparisons(group) for group in groups]
    numbers = [number for number, part in enumerate(compared, start=1) if not part.empty]
    if not numbers:
        return []
    tasks = {groups[number - 1].shared("task") for number in numbers}
    pairs = [_PAIRS] if "sts" in tasks else []
    later = ", ".join(str(number) for number in numbers if number > 1)
    elsewhere = [f"Compared with theirs further below: group {later}."] if later else []
    sentences = [_ABOUT, *_agreement(compared[0]), *pairs, _GAPS, *elsewhere]
    return [_section(groups[0], compared[0], sentences, "", drawn=True)]


def group_section(group: Group, prefix: str, *, drawn: bool) -> list[Section]:
    """A later group's comparison with the authors' figures, if it can be compared.

    Args:
        prefix: of its anchor and its figures.
        drawn: whether it has figures, or its table alone.
    """
    compared = comparisons(group)
    if compared.empty:
        return []
    return [_section(group, compared, [*_agreement(compared), _SEE], prefix, drawn=drawn)]


def _section(
    group: Group, compared: pd.DataFrame, sentences: Sequence[str], prefix: str, *, drawn: bool
) -> Section:
    drawings, tables = [], []
    if not compared.empty:
        caption = (
            f"Relative to full fine-tuning in fp32; theirs on {task_of(group).upper()}, with "
            f"batches of {group.shared('batch_size')}."
        )
        tables = [_table(compared, caption)]
        shown = [cost for cost in COSTS if drawn and not _both(compared, cost).empty]
        drawings = [_drawing(compared, cost, prefix) for cost in shown]
    return Section(f"{prefix}authors", "The authors'", _HEADING, sentences, drawings, tables)


def _both(compared: pd.DataFrame, name: str) -> pd.DataFrame:
    both = compared.rename(columns={f"{name}_theirs": "theirs", f"{name}_ours": "ours"})
    return both.dropna(subset=["theirs", "ours"])


def _agreement(compared: pd.DataFrame) -> list[str]:
    """Sentences on agreement: of costs on the side of full fine-tuning, of scores on the order of
    layer sets."""
    if compared.empty:
        return []
    sentences = []
    for cost in COSTS:
        both = _both(compared, cost)
        theirs, ours = both["theirs"] < 1, both["ours"] < 1
        if not both.empty:
            sentences.append(
                f"{cost.capitalize()}: below full fine-tuning in {theirs.sum()} of {len(both)} in "
                f"their rows and in {ours.sum()} here; on the same side of it in "
                f"{(theirs == ours).sum()}."
            )
    for mode, scored in _both(compared, "score").groupby("mode", sort=False):
        if len(scored) > 1 and scored["learned"].any():
            published, here = (
                scored.sort_values(side, ascending=False, kind="stable")
                for side in ("theirs", "ours")
            )
            same = list(published["layers"]) == list(here["layers"])
            order = "the same" if same else f"here {', '.join(here['layers'])}"
            unlearned = ", ".join(here[~here["learned"]]["layers"])
            doubt = f" Flagged here as not learned: {unlearned}." if unlearned else ""
            sentences.append(
                f"Scores of {mode} by layer set, best first: theirs "
                f"{', '.join(published['layers'])}; {order}.{doubt}"
            )
    return sentences


def _table(compared: pd.DataFrame, caption: str) -> Table:
    heads = [Head("mode", "mode"), Head("layers", "layers")]
    heads += [
        Head(f"{cost}_{side}", f"{cost}, {whose}", "× full fine-tuning", True)
        for cost in COSTS
        for side, whose in (("theirs", "theirs"), ("ours", "here"))
    ]
    order = "on other data, so only its order is comparable"
    heads += [
        Head("score_theirs", "best score, theirs", order, True),
        Head("score_ours", "best score, here", "", True),
    ]

    def shown(value: Any, name: str) -> str:
        if isinstance(value, str):
            return value
        if pd.isna(value):
            return DASH
        return fixed(value) if name.startswith("score") else times(value)

    rows = [
        [shown(row[head.key], head.key) for head in heads] for row in compared.to_dict("records")
    ]
    return Table(heads, rows, caption)


def _drawing(compared: pd.DataFrame, cost: str, prefix: str) -> Drawing:
    """A cost relative to full fine-tuning, theirs hollow and ours filled, by mode and layer set."""
    both = _both(compared, cost)
    kinds = compared["mode"] + " " + compared["layers"]
    with canvas(0.9 + 0.3 * max(len(kinds), 2)) as (figure, axes):
        axes.axvline(1, color=INK, linewidth=1)
        axes.hlines(both.index, both["theirs"], both["ours"], color=GREY, linewidth=1.1, zorder=1.5)
        for place, row in enumerate(compared.to_dict("records")):
            style: dict[str, Any] = {"color": COLOURS[row["mode"]], "marker": MARKERS[row["mode"]]}
            axes.plot(row[f"{cost}_theirs"], place, markerfacecolor=PAPER, markersize=6, **style)
            axes.plot(row[f"{cost}_ours"], place, markersize=6, **style)
        axes.set_yticks(range(len(kinds)), list(kinds))
        axes.set_ylim(len(kinds) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{cost}, × full fine-tuning in fp32")
    stem = f"{prefix}authors-{cost}"
    values = "; ".join(
        f"{row['mode']} {row['layers']} {row['theirs']:.2f} and {row['ours']:.2f}"
        for row in both.to_dict("records")
    )
    alt = f"{cost} relative to full fine-tuning, theirs and ours: {values}."
    caption = (
        "Hollow: the authors' figures. Filled: this report's. Left of the line: less than full "
        "fine-tuning."
    )
    return Drawing(stem, to_svg(figure, stem), alt, caption)
