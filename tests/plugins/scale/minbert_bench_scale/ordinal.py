"""Classes in an order, such as stars."""

from typing import ClassVar

from minbert.data.problems import SingleLabel


class Ordinal(SingleLabel):
    """One of ordered classes for each example: labels int64 [N]."""

    name: ClassVar = "ordinal"
    loss_function: ClassVar = "minbert_bench_scale.distance:loss"


PROBLEM = Ordinal()
