"""The dev metrics: which problems have them, which way is better, in what unit, and how much counts
as no worse."""

from dataclasses import dataclass
from typing import Final

from bench.common.errors import InputError
from bench.plan.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bench.plan.tables import read_tables


@dataclass(frozen=True)
class Metric:
    """A dev metric.

    Attributes:
        label: its name after "dev" and "best".
        problems: the problems that have it.
        about: a line on how it is defined.
        in_points: whether differences are told in points, hundredths, as in "2 points of accuracy".
        lowest: a bound from below; `bounded`: whether 1 is one from above.
        needs_logits: whether it takes logits, where others take predicted classes.
        by_class: whether a class counts as much with few examples as with many.
        margin: how much worse than another a score may be, interval included, to count as no
            worse; of a metric in the unit of the labels a share of the other score.
    """

    label: str
    problems: tuple[str, ...] = ()
    about: str = ""
    in_points: bool = False
    higher_is_better: bool = True
    lowest: float = 0.0
    bounded: bool = True
    needs_logits: bool = False
    by_class: bool = False
    margin: float = 0.02

    def gain(self, value: float) -> float:
        """A score or a difference of scores, with the sign by which more is better."""
        return value if self.higher_is_better else -value

    def tolerance(self, reference: float) -> float:
        """The margin below a reference's score."""
        return self.margin if self.bounded else self.margin * abs(reference)

    def size(self, difference: float) -> str:
        """A positive difference of scores with its unit."""
        if self.in_points:
            points = f"{100 * difference:.3g}"
            return f"{points} point{'' if points == '1' else 's'} of {self.label}"
        return f"{difference:.3g} in {self.label}"


OVERALL: Final = "overall"
"""The dev score of a task of several parts: the mean of theirs."""
METRICS: Final = {name: Metric(**table) for name, table in read_tables("metrics.toml").items()}
"""By the names in column `dev_metric` and of --metric."""
DEFAULTS: Final = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "pearson"}
"""The metric of each problem in runs.csv."""
ROW_METRICS: Final = (*DEFAULTS.values(), OVERALL)
"""The metrics in runs.csv; the others are chosen for a report."""
METRIC_HELP: Final = (
    "The metric that decides in the report, computed from kept predictions: "
    f"{', '.join(name for name in METRICS if name != OVERALL)}. Each row's own by default."
)
_UNKNOWN: Final = Metric("score", lowest=-1.0)


def metric_of(name: object) -> Metric:
    """The metric of this name; a generic score for any other name."""
    return METRICS.get(str(name), _UNKNOWN)


def metrics_for(problem: str) -> tuple[str, ...]:
    """The names of a problem's metrics, the default first."""
    names = [name for name, metric in METRICS.items() if problem in metric.problems]
    return tuple(sorted(names, key=lambda name: name != DEFAULTS[problem]))


def problem_of(default: object) -> str | None:
    """The problem whose metric in runs.csv has this name; None for any other name."""
    return next((problem for problem, name in DEFAULTS.items() if name == default), None)


def check_metric(name: str, problem: str | None) -> None:
    """Refuse a metric that a problem does not have.

    Args:
        problem: None for a task of several parts, whose only metric is the overall score.

    Raises:
        InputError: with the names of those it has.
    """
    names = (OVERALL,) if problem is None else metrics_for(problem)
    if name not in names:
        whose = problem.replace("_", "-") if problem else "a task of several parts"
        raise InputError(f"--metric {name}: not a metric for {whose}; choose {', '.join(names)}")
