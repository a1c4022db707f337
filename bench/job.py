"""The job of a worker: a cell, where it runs, and the files it reads. Kept as cell.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.cell import Cell

FILE: Final = "cell.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to run one cell.

    `checkpoint` is the folder of the weights, or, for a random initialisation, None or the folder
    of the configuration; `geometry` names the configuration where no folder has it. Paths stay
    in the cell's folder: they are no columns of runs.csv.
    """

    cell: Cell
    conditions_id: str
    attempt: int
    device: str
    threads: int
    checkpoint: str | None
    geometry: str | None
    tokenizer: str
    data: str | None
    keep: bool
    code_version: str

    def to_json(self) -> str:
        """The text of cell.json."""
        return json.dumps({"cell_id": self.cell.cell_id, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of `to_json`.

        Raises:
            ValueError: for a text that is no job.
        """
        try:
            values = json.loads(text)
            del values["cell_id"]
            return cls(**{**values, "cell": Cell.from_columns(values["cell"])})
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"it is no job: {error!r}") from None

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """The job in a cell's folder."""
        return cls.from_json((folder / FILE).read_text(encoding="utf-8"))
