"""What the paper's authors measured, beside what was measured here.

`authors.csv` holds the 220 rows of the authors' own benchmark of bert-base-uncased (arXiv
2508.17586), a row for each setting that they published: seconds of a training epoch, peak CUDA
memory allocated in GiB, and dev scores, on SST and STS. Figures are theirs, columns ours.
Paraphrase was not trained in them: its accuracy, and a total of which it is a third, are left out.
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
class Beside:
    """A mode and layer set: costs relative to full fine-tuning in fp32, and the best score.

    A value that there is not is None. `learned` is False where all of ours are flagged as having
    learned nothing, so that their score is chance.
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
    """Their task that a group is compared with, and the column of its score."""
    return _TASKS.get(str(group.shared("task")), _TASKS["sst"])


def beside(group: Group) -> list[Beside]:
    """The modes and layer sets that both have, in the group's batch size; none without a baseline
    of both."""
    if group.shared("task") == MULTITASK:  # theirs are of single tasks
        return []
    task, score = theirs_of(group)
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
                    any(setting.learned for setting in own),
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
