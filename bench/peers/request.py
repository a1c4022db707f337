"""What a process of the comparison is asked to do. Kept as request.json in its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE: Final = "request.json"
ANSWER: Final = "peers"
"""The key, among a result's columns, of what the process found."""
COMPILE_TIMEOUT: Final = "compile_timeout_s"
"""The key, in that, of the limit within which nothing was compiled; then there is no other."""

START: Final = "start"
STEPS: Final = "steps"
WHOLE: Final = "whole"

CHECKPOINT: Final = "start"
"""The folder, beside those of the cells, of the weights that all sides begin with."""
ADAPTER: Final = "adapter"
"""The folder, in that of a cell, of the adapter that all sides begin with."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do, and with what.

    Attributes:
        kind: `start` writes the first weights of all cells, `steps` measures the training steps
            of one, `whole` trains and scores one.
        side: who does it.
        cells: folders of cells, each with a cell.json; one alone but for `start`.
        checkpoint: the folder of the first weights.
        loss_steps: training steps whose losses are kept, after the measurement.
        budget_s: seconds of timed steps after which no more precision is sought.
        compile_timeout_s: seconds after which compiling is given up; None: no limit.
        new_pooler: whether the pooler, if the model has one, is newly initialised.
    """

    kind: str
    side: str
    cells: tuple[str, ...]
    checkpoint: str
    loss_steps: int = 0
    budget_s: float = 0.0
    compile_timeout_s: float | None = None
    new_pooler: bool = False

    def write(self, folder: Path) -> None:
        """Leave it in a process's folder."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Request":
        """The request in a process's folder."""
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(**{**values, "cells": tuple(values["cells"])})
