"""The problems that a model can learn."""

from typing import Final, Literal

SINGLE_LABEL: Final = "single_label"
MULTI_LABEL: Final = "multi_label"
REGRESSION: Final = "regression"
Problem = Literal["single_label", "multi_label", "regression"]
"""One class for each example, any of several labels, or a number."""
