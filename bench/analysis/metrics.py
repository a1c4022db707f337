"""The dev metrics: which way is better, in what unit, and how much counts as no worse."""

from dataclasses import dataclass
from typing import Final

from bench.plan.cell import OVERALL, Value


@dataclass(frozen=True)
class Metric:
    """A dev metric.

    Attributes:
        label: its name after "dev".
        short: its name after "best".
        unit: the unit of `size`, as in "2 points of accuracy"; `scale`: how many units 1 is.
        margin: how far below another a score may be, interval included, to count as no worse.
    """

    label: str
    short: str
    unit: str
    scale: int = 1
    higher_is_better: bool = True
    margin: float = 0.02

    def gain(self, value: float) -> float:
        """A score or a difference of scores, with the sign by which more is better."""
        return value if self.higher_is_better else -value

    def size(self, difference: float) -> str:
        """A positive difference of scores with its unit."""
        return f"{difference * self.scale:g} {self.unit}"


METRICS: Final = {
    "accuracy": Metric("accuracy", "accuracy", "points of accuracy", scale=100),
    "pearson": Metric("Pearson correlation", "correlation", "in correlation"),
    OVERALL: Metric("overall score", "overall score", "in overall score"),
}
"""By the names in column `dev_metric`."""
_UNKNOWN: Final = Metric("score", "score", "in score")


def metric_of(name: Value) -> Metric:
    """The metric of this name; a generic score for any other name."""
    return METRICS.get(str(name), _UNKNOWN)
