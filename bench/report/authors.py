"""The measurements of the paper's authors, compared with those made here.

`authors.csv` holds the 220 rows of the authors' own benchmark of bert-base-uncased (arXiv
2508.17586), a row for each setting that they published: seconds of a training epoch, peak CUDA
memory allocated in GiB, and dev scores, on SST and STS. The numbers are theirs, the columns ours.
They did not train paraphrase, so its accuracy and the total that includes it are left out.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, log
from statistics import fmean
from typing import Final

from adapters.methods import ADAPTER_MODES
from adapters.names import LAYER_SETS
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, column
from bench.plan.cell import MULTITASK

Row = Mapping[str, float | str | None]

_TEXTS: Final = ("mode", "layers")
_TASKS: Final = {"sst": ("sst", "sst_accuracy"), "sts": ("sts", "sts_pearson")}
_COSTS: Final = {"memory": "peak_gib", "time": "epoch_s"}


@dataclass(frozen=True)
class Comparison:
    """A mode and layer set: costs relative to full fine-tuning in fp32, and the best score.

    Missing values are None. `learned` is False if all of our settings are flagged as having learned
    nothing, so that their score is chance.
    """

    mode: str
    layers: str
    theirs: Mapping[str, float | None]
    ours: Mapping[str, float | None]
    learned: bool


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


def theirs_of(group: Group) -> tuple[str, str]:
    """The authors' task that a group is compared with, and the column of its score."""
    return _TASKS.get(str(group.shared("task")), _TASKS["sst"])


def comparisons(group: Group) -> list[Comparison]:
    """Comparisons of the modes and layer sets that both have, in the group's batch size.

    None without a baseline on both sides, nor for a task of several parts, which they lack.
    """
    task, score = theirs_of(group)
    rows = [row for row in authors() if row["batch_size"] == group.shared("batch_size")]
    full = [row for row in rows if row["mode"] == "full"]
    base = group.baseline
    if group.shared("task") == MULTITASK or not full or base is None:
        return []
    compared = []
    for mode in ADAPTER_MODES:
        for layers in LAYER_SETS:
            own = [
                s
                for s in group.settings
                if (s.mode, s.layers, s.amp) == (mode, layers, "off") and s.ok and not s.unfreezes
            ]
            if not own:
                continue
            published = [row for row in rows if (row["mode"], row["layers"]) == (mode, layers)]
            theirs: dict[str, float | None] = {
                cost: _ratio(published, full, f"{task}_{_COSTS[cost]}") for cost in COSTS
            }
            theirs["score"] = max((_number(row[score]) for row in published), default=None)
            ours: dict[str, float | None] = {
                cost: _own_ratio(own, base, column(group, cost)) for cost in COSTS
            }
            scores = [estimate.value for s in own if (estimate := s.estimate("dev_score"))]
            ours["score"] = max(scores, default=None)
            learned = any(setting.learned for setting in own)
            compared.append(Comparison(mode, layers, theirs, ours, learned))
    return compared if any(one.theirs["time"] is not None for one in compared) else []


def _number(value: float | str | None) -> float:
    return float(value or 0.0)


def _ratio(rows: Sequence[Row], full: Sequence[Row], name: str) -> float | None:
    """The mean of a column, relative to that of full fine-tuning."""
    if not rows:
        return None
    mean, base = (fmean(_number(row[name]) for row in part) for part in (rows, full))
    return mean / base


def _own_ratio(settings: Sequence[Setting], base: Setting, name: str) -> float | None:
    """The geometric mean over ranks of the ratio to full fine-tuning."""
    unit = base.estimate(name)
    values = [estimate.value for s in settings if (estimate := s.estimate(name))]
    if unit is None or not values or min(values) <= 0 or unit.value <= 0:
        return None
    return exp(fmean(log(value / unit.value) for value in values))
