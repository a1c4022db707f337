"""Costs of using exported models: figures in `runs.exports.json` next to runs.csv, by cell_id."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from bench.results.datafile import read_models, update_model

MERGED: Final = "merged"
ONNX: Final = "onnx"
INT8: Final = "onnx-int8"
ADAPTER: Final = "adapter"
FORMS: Final = (ADAPTER, MERGED, ONNX, INT8)
BATCH: Final = 32
"""Texts of the batch whose latency is measured."""

_CONTENT: Final = "what exported models cost to use"


class Form(BaseModel):
    """One form of an exported model, as plain libraries run it in a process of its own.

    Attributes:
        name: one of `FORMS`.
        format: the name of the format that it is written in; "" where none has a place for it.
        missing: why it was not measured; "" where it was. Without it no other field is empty but
            those that the model's problem, or a refit, has no value for.
        size_mb: of the model's files, without the tokenizer, in MB.
        one_ms, batch_ms: median latency of one text and of a batch of `BATCH`, tokenising
            included.
        score: on dev, by the metric of the figures; None after a refit.
        changed: dev examples with another prediction than the cell's own model in fp32; None of a
            regression.
        largest_difference: of a logit from the cell's own, in the unit of the labels.
        libraries: versions of those that ran it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    format: str
    missing: str = ""
    size_mb: float | None = None
    one_ms: float | None = None
    batch_ms: float | None = None
    score: float | None = None
    changed: int | None = None
    largest_difference: float | None = None
    libraries: dict[str, str] = {}


class Figures(BaseModel):
    """The costs of using the forms of one exported model.

    Attributes:
        metric: the row's.
        examples: the number of dev examples.
        machine: its processor.
        threads: that each form ran with.
        at: when it was measured, UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    forms: tuple[Form, ...]
    metric: str
    examples: int
    machine: str
    threads: int
    at: str

    def form(self, name: str) -> Form | None:
        """The form of this name; None where it was not measured."""
        return next((form for form in self.forms if form.name == name and not form.missing), None)


def exports_file(runs: Path) -> Path:
    """The path of a CSV's figures of exported models."""
    return runs.with_name(f"{runs.stem}.exports.json")


def read_exports(*runs: Path) -> dict[str, Figures]:
    """The figures in the files of some CSVs, by `cell_id`; of several the latest count.

    Raises:
        InputError: for a file that can't be read, or is of another version.
    """
    figures = [
        item for path in runs for item in read_models(exports_file(path), Figures, _CONTENT).items()
    ]
    return dict(sorted(figures, key=lambda item: item[1].at))


def keep_figures(runs: Path, cell_id: str, figures: Figures) -> None:
    """Write the figures of a cell's exported model to a CSV's file, in place of earlier ones.

    Raises:
        InputError, DiskFullError: as `bench.results.datafile.update_model`.
    """
    update_model(runs, exports_file(runs), Figures, _CONTENT, cell_id, lambda _: figures)


def latest_figures(exports: Mapping[str, Figures], cell_ids: Sequence[str]) -> Figures | None:
    """The figures measured last of some cells, such as the seeds of a setting."""
    known = [exports[cell_id] for cell_id in cell_ids if cell_id in exports]
    return max(known, key=lambda figures: figures.at, default=None)
