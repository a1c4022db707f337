"""The dev metrics: which problems have them, which way is better, in what unit, and how much counts
as no worse."""

from dataclasses import dataclass
from typing import Final

from bench.common.errors import InputError
from bench.plan.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A dev metric.

    Attributes:
        label: its name after "dev".
        short: its name after "best".
        unit: the unit of `size`, as in "2 points of accuracy"; `scale`: how many units 1 is.
        problems: the problems that have it.
        about: a line on how it is defined.
        lowest: a bound from below; `bounded`: whether 1 is one from above.
        needs_logits: whether it takes logits, where others take predicted classes.
        margin: how much worse than another a score may be, interval included, to count as no
            worse; of a metric in the unit of the labels a share of the other score.
    """

    label: str
    short: str
    unit: str
    problems: tuple[str, ...] = ()
    about: str = ""
    scale: int = 1
    higher_is_better: bool = True
    lowest: float = 0.0
    bounded: bool = True
    needs_logits: bool = False
    margin: float = 0.02

    def gain(self, value: float) -> float:
        """A score or a difference of scores, with the sign by which more is better."""
        return value if self.higher_is_better else -value

    def tolerance(self, reference: float) -> float:
        """The margin below a reference's score."""
        return self.margin if self.bounded else self.margin * abs(reference)

    def size(self, difference: float) -> str:
        """A positive difference of scores with its unit."""
        return f"{difference * self.scale:.3g} {self.unit}"


OVERALL: Final = "overall"
"""The dev score of a task of several parts: the mean of theirs."""
_POINTS: Final = 100


METRICS: Final = {
    "accuracy": Metric(
        label="accuracy",
        short="accuracy",
        unit="points of accuracy",
        problems=(SINGLE_LABEL,),
        about="share of examples whose class is predicted right",
        scale=_POINTS,
    ),
    "balanced_accuracy": Metric(
        label="balanced accuracy",
        short="balanced accuracy",
        unit="points of balanced accuracy",
        problems=(SINGLE_LABEL,),
        about="mean recall over the classes",
        scale=_POINTS,
    ),
    "macro_f1": Metric(
        label="macro F1",
        short="macro F1",
        unit="points of macro F1",
        problems=(SINGLE_LABEL, MULTI_LABEL),
        about="mean F1 over the classes, or over the labels",
        scale=_POINTS,
    ),
    "weighted_f1": Metric(
        label="weighted F1",
        short="weighted F1",
        unit="points of weighted F1",
        problems=(SINGLE_LABEL,),
        about="mean F1 over the classes, weighted by their numbers of examples",
        scale=_POINTS,
    ),
    "micro_f1": Metric(
        label="micro F1",
        short="micro F1",
        unit="points of micro F1",
        problems=(MULTI_LABEL,),
        about="F1 over the decisions on all labels together",
        scale=_POINTS,
    ),
    "mcc": Metric(
        label="Matthews correlation",
        short="Matthews correlation",
        unit="in Matthews correlation",
        problems=(SINGLE_LABEL,),
        about="Matthews correlation coefficient",
        lowest=-1.0,
    ),
    "auroc": Metric(
        label="AUROC",
        short="AUROC",
        unit="in AUROC",
        problems=(SINGLE_LABEL,),
        about="area under the ROC curve; of more than two classes, the mean of each against the "
        "rest",
        needs_logits=True,
    ),
    "average_precision": Metric(
        label="average precision",
        short="average precision",
        unit="in average precision",
        problems=(SINGLE_LABEL,),
        about="average precision of the second class; of more than two, the mean of each against "
        "the rest",
        needs_logits=True,
    ),
    "pearson": Metric(
        label="Pearson correlation",
        short="correlation",
        unit="in correlation",
        problems=(REGRESSION,),
        about="Pearson correlation",
        lowest=-1.0,
    ),
    "spearman": Metric(
        label="Spearman correlation",
        short="rank correlation",
        unit="in rank correlation",
        problems=(REGRESSION,),
        about="Pearson correlation of the ranks",
        lowest=-1.0,
    ),
    "r2": Metric(
        label="R²",
        short="R²",
        unit="in R²",
        problems=(REGRESSION,),
        about="share of the labels' variance that is predicted; negative where their mean "
        "predicts better",
        lowest=float("-inf"),
    ),
    "rmse": Metric(
        label="RMSE",
        short="RMSE",
        unit="in RMSE",
        problems=(REGRESSION,),
        about="root of the mean squared error, in the unit of the labels; lower is better",
        higher_is_better=False,
        bounded=False,
        margin=0.05,
    ),
    OVERALL: Metric(
        label="overall score",
        short="overall score",
        unit="in overall score",
        about="mean over the parts of accuracy and (1 + r) / 2",
    ),
}
"""By the names in column `dev_metric` and of --metric."""
DEFAULTS: Final = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "pearson"}
"""The metric of each problem in runs.csv."""
ROW_METRICS: Final = (*DEFAULTS.values(), OVERALL)
"""The metrics in runs.csv; the others are chosen for a report."""
METRIC_HELP: Final = (
    "The metric that decides in the report, computed from kept predictions: "
    f"{', '.join(name for name in METRICS if name != OVERALL)}. Each row's own by default."
)
_UNKNOWN: Final = Metric(label="score", short="score", unit="in score", lowest=-1.0)


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
        what = "a task of several parts" if problem is None else f"{problem.replace('_', '-')} data"
        known = ", ".join(names)
        raise InputError(f"--metric {name}: it is no metric of {what}; there are {known}")
