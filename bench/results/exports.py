"""Costs of using exported models: figures in `runs.exports.json` next to runs.csv, by cell_id."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from bench.results.datafile import DataFile

MERGED: Final = "merged"
ONNX: Final = "onnx"
INT8: Final = "onnx-int8"
ADAPTER: Final = "adapter"
FORMS: Final = (ADAPTER, MERGED, ONNX, INT8)
BATCH: Final = 32
"""Texts of the batch whose latency is measured."""
PIPED: Final = 200
"""Most texts whose entities are compared with those of transformers' pipeline."""


class Form(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """One form of an exported model, as plain libraries run it in a process of its own.

    Attributes:
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
        entities: of a model of entities, those that transformers' pipeline finds in `PIPED` dev
            texts, how many of them `predict.py` finds too, and how many this finds: with `words`
            given, as in dev, and with the plain `text`.
    """

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
    entities: dict[str, tuple[int, int, int]] = {}


class Figures(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The costs of using the forms of one exported model."""

    forms: tuple[Form, ...]
    metric: str  # of the row, on dev
    examples: int
    int8_loss: float | None = None  # what int8 scores less than ONNX in fp32; None: not measured
    machine: str  # the processor
    threads: int  # that each form ran with
    at: str  # when it was measured, UTC, ISO 8601

    def form(self, name: str) -> Form | None:
        return next((form for form in self.forms if form.name == name and not form.missing), None)


EXPORTS: Final = DataFile(".exports.json", Figures, "what exported models cost to use")


def read_exports(*runs: Path) -> dict[str, Figures]:
    """The figures in the files of some CSVs, by `cell_id`; of several the latest count."""
    figures = [item for path in runs for item in EXPORTS.read(path).items()]
    return dict(sorted(figures, key=lambda item: item[1].at))


def latest_figures(exports: Mapping[str, Figures], cell_ids: Sequence[str]) -> Figures | None:
    known = [exports[cell_id] for cell_id in cell_ids if cell_id in exports]
    return max(known, key=lambda figures: figures.at, default=None)
