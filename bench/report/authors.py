"""The report's section on the measurements of the paper's authors, compared with those made here.

`authors.csv` holds the 220 rows of the authors' own benchmark of bert-base-uncased (arXiv
2508.17586), a row for each setting that they published: seconds of a training epoch, peak CUDA
memory allocated in GiB, and dev scores, on SST and STS. The numbers are theirs, the columns ours.
They did not train paraphrase, so its accuracy and the total that includes it are left out.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from adapters.methods import ADAPTER_MODES
from adapters.names import LAYER_SETS
from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS, compare
from bench.plan.cell import MULTITASK
from bench.plan.metrics import ROW_METRICS
from bench.report.drawing import GREY, INK, PAPER, Drawing, canvas, name_lines
from bench.report.figures import COLOURS, MARKERS
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import table

_SCORES: Final = {"sst": "sst_accuracy", "sts": "sts_pearson"}
_HEADING: Final = "Comparison with the authors' figures"


@cache
def authors() -> pd.DataFrame:
    """The authors' rows. Not to be changed."""
    return pd.read_csv(Path(__file__).with_name("authors.csv"))


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
    """The first group's comparison with the authors' figures, and what can be compared at all. It
    is there if any of the groups can be compared, and names the others that can."""
    compared = [comparisons(group) for group in groups]
    numbers = [number for number, part in enumerate(compared, start=1) if not part.empty]
    if not numbers:
        return []
    has_pairs = any(groups[number - 1].shared("task") == "sts" for number in numbers)
    later = [number for number in numbers if number > 1]
    return [_section(groups[0], compared[0], is_first=True, has_pairs=has_pairs, later=later)]


def group_section(group: Group, prefix: str, *, drawn: bool) -> list[Section]:
    """A later group's comparison with the authors' figures, if it can be compared, as a figure or
    its table alone; its anchor and its figures have a prefix."""
    compared = comparisons(group)
    return [] if compared.empty else [_section(group, compared, prefix, drawn=drawn)]


def _section(
    group: Group, compared: pd.DataFrame, prefix: str = "", *, drawn: bool = True, **facts: Any
) -> Section:
    lines, drawings, tables = _sentences(compared, **facts), [], []
    if not compared.empty:
        batch = group.shared("batch_size")
        caption = phrase("captions", "authors_table", task_of(group), batch)
        tables = [table("authors", compared.to_dict("records"), caption)]
        shown = [cost for cost in COSTS if drawn and not _both(compared, cost).empty]
        drawings = [_drawing(compared, cost, prefix) for cost in shown]
    return Section(f"{prefix}authors", "The authors'", _HEADING, lines, drawings, tables)


def _both(compared: pd.DataFrame, name: str) -> pd.DataFrame:
    both = compared.rename(columns={f"{name}_theirs": "theirs", f"{name}_ours": "ours"})
    return both.dropna(subset=["theirs", "ours"])


def _sentences(compared: pd.DataFrame, *, is_first: bool = False, **facts: object) -> list[str]:
    """What can be compared, and agreement: of costs on the side of full fine-tuning, of scores on
    the order of layer sets."""
    costs, orders = [], []
    for cost in COSTS if not compared.empty else ():
        both = _both(compared, cost)
        theirs, ours = both["theirs"] < 1, both["ours"] < 1
        if not both.empty:
            costs.append((cost, len(both), theirs.sum(), ours.sum(), (theirs == ours).sum()))
    scores = compared if compared.empty else _both(compared, "score")
    for mode, scored in () if scores.empty else scores.groupby("mode", sort=False):
        if len(scored) > 1 and scored["learned"].any():
            published, here = (
                scored.sort_values(side, ascending=False, kind="stable")
                for side in ("theirs", "ours")
            )
            unlearned = list(here[~here["learned"]]["layers"])
            orders.append((mode, list(published["layers"]), list(here["layers"]), unlearned))
    more = {"has_pairs": False, "later": [], "heading": _HEADING} | facts
    return sentences("authors", is_first=is_first, costs=costs, orders=orders, **more)


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
        name_lines(axes, list(kinds))
        axes.set_xlabel(f"{cost}, × full fine-tuning in fp32")
    stem = f"{prefix}authors-{cost}"
    alt = phrase("captions", "authors_alt", cost, both.to_dict("records"))
    caption = phrase("captions", "authors")
    return Drawing.of(figure, stem, alt, caption)
