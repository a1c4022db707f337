"""The dev metrics: which problems have them, which way is better, in what unit, how much counts as
no worse, and what computes them. metrics.toml beside this file has this project's.

The names of problems, and their metrics in runs.csv, are those of `minbert.data.problems`: planning
imports no numpy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.files import read_tables
from minbert.registry import Registry, declared_names, load

SINGLE_LABEL: Final = "single_label"
MULTI_LABEL: Final = "multi_label"
REGRESSION: Final = "regression"
WORDS: Final = "token_classification"
WORD_CLASSES: Final = "word_classification"
BY_WORD: Final = (WORDS, WORD_CLASSES)
DEFAULTS: Final = {
    SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "pearson", WORDS: "entity_f1",
    WORD_CLASSES: "word_accuracy",
}  # fmt: skip
"""The metric of each problem: of one class for each example, any of several labels, a number, a tag
for each word that marks entities, or another class for each word."""
PROBLEM_NAMES: Final = (*DEFAULTS, *declared_names("minbert_bench.problems"))
"""The names of problems, those of plugins included."""
OVERALL: Final = "overall"  # the dev score of a task of several parts: the mean of theirs
_WITHOUT: Final = (DEFAULTS[SINGLE_LABEL], OVERALL)  # metrics without functions of their own


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A dev metric.

    `value` computes the score, and `influence` that of each example on it [N]: N times the
    derivative by the example's weight. Both are named as `module:function`, and empty for the
    accuracy and the overall score, for which right and wrong, or the parts' scores, are enough. The
    functions take labels and predictions: classes [N], numbers [N], or 0 and 1 for each label
    [N, C]; with `needs_logits`, whether each example is of a class [N], and its score for the class
    [N], and options by keyword. They raise ValueError where the metric is not defined.

    `margin` is how much worse than another a score may be, interval included, to count as no worse;
    of a metric in the unit of the labels a share of the other score.
    """

    name: str  # as in column `dev_metric` and for --metric
    label: str  # its name after "dev" and "best"
    problems: tuple[str, ...] = ()  # those that have it
    about: str = ""  # a line on how it is defined
    in_points: bool = False  # whether differences are in hundredths, as in "2 points of accuracy"
    higher_is_better: bool = True
    lowest: float = 0.0  # a bound from below
    bounded: bool = True  # whether 1 is a bound from above
    needs_logits: bool = False  # whether it takes logits, where others take predicted classes
    by_class: bool = False  # whether a class counts as much with few examples as with many
    in_unit: bool = False  # whether numbers have to be in the unit of the labels
    is_correlation: bool = False  # whether its interval is on the scale of Fisher's z
    value: str = ""
    influence: str = ""
    value_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    influence_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    margin: float = 0.02

    def __post_init__(self) -> None:
        if unknown := {*self.problems} - DEFAULTS.keys():
            raise ValueError(f"its problems {unknown} are not among {', '.join(DEFAULTS)}")
        if self.name not in (*_WITHOUT, "") and not (":" in self.value and ":" in self.influence):
            raise ValueError("its value and influence are not named as module:function")

    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return (
            partial(load(self.value), **self.value_options),
            partial(load(self.influence), **self.influence_options),
        )

    @property
    def of_entities(self) -> bool:
        """Whether predictions of entities have it, of which few allow no comparison by example."""
        return WORDS in self.problems

    def gain(self, value: float) -> float:
        """A score or a difference of scores, with the sign by which more is better."""
        return value if self.higher_is_better else -value

    def tolerance(self, reference: float) -> float:
        return self.margin if self.bounded else self.margin * abs(reference)

    def size(self, difference: float) -> str:
        """A positive difference of scores with its unit."""
        if self.in_points:
            points = f"{100 * difference:.3g}"
            return f"{points} point{'' if points == '1' else 's'} of {self.label}"
        return f"{difference:.3g} in {self.label}"


METRICS: Final = Registry(
    Metric,
    "minbert_bench.metrics",
    (Metric(name=name, **table) for name, table in read_tables(__file__, "metrics.toml").items()),
)
ROW_METRICS: Final = (*DEFAULTS.values(), OVERALL)
"""The metrics in runs.csv; the others are chosen for a report."""
METRIC_HELP: Final = (
    "The metric that decides in the report, computed from kept predictions: "
    f"{', '.join(name for name in METRICS if name != OVERALL)}. Each row's own by default."
)
_UNKNOWN: Final = Metric(name="", label="score", lowest=-1.0)


def metric_of(name: object) -> Metric:
    """The metric of this name; a generic score for any other name."""
    return METRICS.known(str(name)) or _UNKNOWN


def metrics_for(problem: str) -> tuple[str, ...]:
    """The names of a problem's metrics, the default first."""
    names = [name for name, metric in METRICS.usable().items() if problem in metric.problems]
    return tuple(sorted(names, key=lambda name: name != DEFAULTS[problem]))


def problem_of(default: object) -> str | None:
    """The problem whose metric in runs.csv has this name; None for any other name."""
    return next((problem for problem, name in DEFAULTS.items() if name == default), None)


def check_metric(name: str, problem: str | None) -> None:
    """Refuse, by an InputError, a metric that a problem does not have, or a plugin's that can't be
    used. The problem is None for a task of several parts, which has the overall score alone."""
    _ = METRICS[name]
    names = (OVERALL,) if problem is None else metrics_for(problem)
    if name not in names:
        whose = problem.replace("_", "-") if problem else "a task of several parts"
        raise InputError(f"--metric {name}: not a metric for {whose}; choose {', '.join(names)}")
