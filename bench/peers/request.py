"""The request to a process of the comparison, stored as request.json in its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE: Final = "request.json"
ANSWER: Final = "peers"
"""The key of the process's answer among a result's columns."""
COMPILE_TIMEOUT: Final = "compile_timeout_s"
"""The only key of an answer if the model was not compiled in time: the limit in seconds."""

START: Final = "start"
STEPS: Final = "steps"
WHOLE: Final = "whole"

CHECKPOINT: Final = "start"
"""The folder of the initial weights of all sides, next to those of the cells."""
ADAPTER: Final = "adapter"
"""The folder of the initial adapter of all sides, in that of a cell."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A task for a process, and its inputs.

    Attributes:
        kind: `start` writes the initial weights of all cells, `steps` measures the training steps
            of one, `whole` trains and scores one.
        side: the side to run.
        cells: folders of cells, each with a cell.json; only one unless the kind is `start`.
        checkpoint: the folder of the initial weights.
        loss_steps: training steps whose losses are recorded, after the measurement.
        budget_s: seconds of timed steps after which no more precision is sought.
        compile_timeout_s: seconds after which compiling is abandoned; None: no limit.
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
        """Write the request to a process's folder."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Request":
        """Read the request from a process's folder."""
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(**{**values, "cells": tuple(values["cells"])})
