"""Costs of using an exported model: each form of it, run by plain libraries in its own process."""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.progress import ShowStep
from bench.export.check import texts_of
from bench.export.formats import FORMATS, Format, default_format, missing_library
from bench.export.fresh import run_fresh
from bench.export.trained import Trained
from bench.machine.conditions import processor_name, usable_threads
from bench.plan.metrics import WORDS, metric_of
from bench.results.exports import ADAPTER, INT8, MERGED, ONNX, PIPED, Figures, Form
from bench.results.predictions import outcome_of
from bench.results.scores import defined_score

_WEIGHTS: Final = {ONNX: "model.onnx", INT8: "model-int8.onnx"}
"""The files of ONNX's two forms; those of the others are recognised by their suffixes."""
_SUFFIXES: Final = (".safetensors", ".bin")


def measure(
    trained: Trained,
    folder: Path,
    format: Format,  # noqa: A002
    expected: NDArray[np.floating],
    show: ShowStep,
) -> Figures:
    """Measure the forms of an exported model on dev, where the cell's own model has the expected
    logits [N, C] in fp32, in the unit of the labels. Forms other than the exported one are written
    into a temporary folder and removed. One of them whose library is missing, or that fails, is
    listed with the reason; InputError if the exported form fails."""
    threads = usable_threads()
    exported = ADAPTER if format.is_adapter else ONNX if format.name == "onnx" else MERGED
    merged, onnx = FORMATS[default_format(trained.row.cell, merge=True)], FORMATS["onnx"]
    formats = {MERGED: format if exported == MERGED else merged, ONNX: onnx, INT8: onnx}
    if format.is_adapter:
        formats = {ADAPTER: format, **formats}
    forms: list[Form] = []
    with TemporaryDirectory(dir=folder.parent, prefix=".forms-") as temporary:
        for name, form in formats.items():
            show(len(forms), name)
            is_here = name == exported or form.name == format.name == "onnx"
            place = folder if is_here else Path(temporary, form.name)
            try:
                if reason := missing_library(form):
                    raise InputError(reason)
                if name == MERGED and form.name == "onnx":
                    raise InputError("no format of a whole model but ONNX can express it")
                if not place.exists():
                    place.mkdir()
                    form.write(trained, place)
                forms.append(_measured(name, form, place, trained, expected, threads))
            except InputError as error:
                if name == exported:
                    raise
                forms.append(Form(name=name, format=form.name, missing=str(error)))
    scores = {form.name: form.score for form in forms}
    exact, int8 = scores[ONNX], scores[INT8]
    gain = metric_of(trained.task.metric).gain
    return Figures(
        forms=tuple(forms),
        metric=trained.task.metric,
        int8_loss=None if exact is None or int8 is None else gain(exact - int8),
        examples=len(trained.dev),
        machine=processor_name(),
        threads=threads,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _measured(
    name: str,
    format: Format,  # noqa: A002
    folder: Path,
    trained: Trained,
    expected: NDArray[np.floating],
    threads: int,
) -> Form:
    is_piped = format.name == "transformers" and trained.task.problem.stored_as == WORDS
    answer = run_fresh(
        folder, texts_of(trained.dev), snippet=format.snippet, base=trained.base,
        weights=_WEIGHTS.get(name), timed=True, threads=threads,
        piped=PIPED if is_piped else 0,
    )  # fmt: skip
    outcome, own = (
        outcome_of(each, trained.dev.labels, (0.0, 1.0)) for each in (answer.logits, expected)
    )
    files = [path for path in folder.rglob("*") if path.suffix in _SUFFIXES]
    if name in _WEIGHTS:
        files = [folder / _WEIGHTS[name]]
    differs = outcome.predicted != own.predicted
    changed = np.count_nonzero(differs if differs.ndim == 1 else differs.any(axis=1))
    return Form(
        name=name,
        format=format.name,
        size_mb=sum(path.stat().st_size for path in files) / 1e6,
        one_ms=median(answer.one_ms),
        batch_ms=median(answer.batch_ms),
        score=None if trained.refitted else defined_score(trained.task.metric, outcome),
        changed=None if outcome.has_numbers else int(changed),
        largest_difference=float(np.abs(answer.logits - expected).max()),
        libraries=answer.libraries,
        entities=answer.entities,
    )
