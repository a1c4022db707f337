"""The dev metrics: which way is better, in what unit, and how much counts as no worse."""

from dataclasses import dataclass
from typing import Final

from bench.plan.cell import OVERALL, Value


@dataclass(frozen=True)
class Metric:
    """A dev metric.

    Attributes:
        label: what it is called, after "dev".
        short: what is best of it, after "best".
        unit: of `size`, as in "2 points of accuracy"; `scale`: how many of it 1 is.
        margin: how far below another a score may be, interval included, to count as no worse.
    """

    label: str
    short: str
    unit: str
    scale: int = 1
    higher_is_better: bool = True
    margin: float = 0.02

    def gain(self, value: float) -> float:
        """A score or a difference of scores so that more is better."""
        return value if self.higher_is_better else -value

    def size(self, difference: float) -> str:
        """A difference of scores without its sign, with its unit."""
        return f"{difference * self.scale:g} {self.unit}"


METRICS: Final = {
    "accuracy": Metric("accuracy", "accuracy", "points of accuracy", scale=100),
    "pearson": Metric("Pearson correlation", "correlation", "in correlation"),
    OVERALL: Metric("overall score", "overall score", "in overall score"),
}
"""By the names in column `dev_metric`."""
_UNKNOWN: Final = Metric("score", "score", "in score")


def metric_of(name: Value) -> Metric:
    """The metric of a name; of none, a score."""
    return METRICS.get(str(name), _UNKNOWN)
