"""Names of the problems that a model can learn, and their metrics in runs.csv, which are those of
`minbert.data.problems`: planning imports no numpy."""

from typing import Final, Literal

SINGLE_LABEL: Final = "single_label"
MULTI_LABEL: Final = "multi_label"
REGRESSION: Final = "regression"
WORDS: Final = "token_classification"
WORD_CLASSES: Final = "word_classification"
BY_WORD: Final = (WORDS, WORD_CLASSES)
Problem = Literal[
    "single_label", "multi_label", "regression", "token_classification", "word_classification"
]
"""One class for each example, any of several labels, a number, a tag for each word that marks
entities, or another class for each word."""
DEFAULTS: Final = {
    SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "pearson", WORDS: "entity_f1",
    WORD_CLASSES: "word_accuracy",
}  # fmt: skip
"""The metric of each problem."""
