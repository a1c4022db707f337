"""An exported model's answers from a fresh process with plain libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.export.trained import Base


@dataclass(frozen=True)
class Answer:
    """The answers of an exported model to N texts or pairs.

    Attributes:
        logits: [N, C], of a regression in the unit of the labels.
        labels: for each text, as the snippet names them: a class, a list of classes, or a number.
        one_ms: latency of one text, tokenising included, when timed.
        batch_ms: of a batch of 32, likewise.
        libraries: their versions.
    """

    logits: NDArray[np.float32]
    labels: list[Any]
    one_ms: list[float]
    batch_ms: list[float]
    libraries: dict[str, str]


def run_fresh(
    folder: Path,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    *,
    snippet: Path | None = None,
    base: Base | None = None,
    weights: str | None = None,
    timed: bool = False,
    threads: int | None = None,
) -> Answer:
    """Run an exported model's snippet on texts, in a process that can't import this project.

    Args:
        folder: the exported model.
        texts: texts, or pairs.
        snippet: the script to run in place of the folder's own.
        base: the checkpoint that adapters refer to; None: the snippet gets it by itself.
        weights: the file of the weights, if the format has several.
        timed: whether to measure latencies.
        threads: that the libraries may use; None: as they choose.

    Raises:
        InputError: with the last line that the process wrote, if it fails.
    """
    raise NotImplementedError
