"""Writing of an exported folder: the model, the check, its card, and what it costs to use. That is
measured by each form of it, run by plain libraries in a process of its own."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError

from bench.common.errors import DiskFullError, InputError
from bench.common.files import umask
from bench.common.messages import echo, one_line
from bench.common.progress import ShowStep, progress_bar
from bench.export.card import CARD, card, int8_line
from bench.export.check import check, run_fresh, texts_of
from bench.export.formats import FORMATS, Format, default_format, missing_library
from bench.export.formats.contents import write_training
from bench.export.trained import Trained
from bench.machine.conditions import processor_name, usable_threads
from bench.plan.metrics import WORDS, metric_of
from bench.results.exports import ADAPTER, EXPORTS, FORMS, INT8, MERGED, ONNX, PIPED, Figures, Form
from bench.results.facts import read_facts
from bench.results.predictions import outcome_of
from bench.results.scores import defined_score

_PART: Final = ".export-"
_LOCK: Final = ".lock"
_OLD_S: Final = 3600
_ROUNDING: Final = 1e-9  # of a difference of scores
_WEIGHTS: Final = {ONNX: "model.onnx", INT8: "model-int8.onnx"}
"""The files of ONNX's two forms; those of the others are recognised by their suffixes."""
_SUFFIXES: Final = (".safetensors", ".bin")


def export(
    trained: Trained,
    logits: NDArray[np.float32],
    runs: Path,
    folder: Path,
    form: Format,
    *,
    settings: int | None,
    max_int8_loss: float,
) -> tuple[dict[str, str], Figures]:
    """Write a trained cell in a format into a new folder, which is there only once all is done;
    check that it gives the cell's own logits [N, C] in fp32 on dev, in the unit of the labels; and
    measure what it costs to use, which is kept next to the CSV. Returns the versions of the
    libraries that checked it, and the costs. `settings` is the number of those among which the cell
    was chosen by score; None: it was not.

    InputError if the folder does not predict as the cell does, its model in int8 scores less than
    in fp32 by more than `max_int8_loss`, or its libraries fail. DiskFullError if it can't be
    written.
    """
    facts = read_facts(runs).get(trained.row.data_digest)
    with _new_folder(folder) as part, progress_bar(2 + len(FORMS)) as show:
        show(0, f"writing {form.name}")
        form.write(trained, part)
        form.copy_scripts(part)
        write_training(trained, part)
        show(1, f"checking {len(trained.dev):,} dev examples in a fresh process")
        answer = check(trained, part, logits)
        figures = measure(
            trained, part, form, logits, lambda done, name: show(2 + done, f"measuring {name}")
        )
        if form.name == "onnx" and (figures.int8_loss or 0) > max_int8_loss + _ROUNDING:
            most = metric_of(figures.metric).size(max_int8_loss)
            raise InputError(
                f"--to {folder}: {int8_line(figures)}, where at most {most} is allowed; nothing "
                "was left there; allow more by --max-int8-loss, or take another --format"
            )
        text = card(trained, part, figures, facts, format=form, compared=settings)
        (part / CARD).write_text(text, encoding="utf-8")
    if not trained.refitted:
        try:
            EXPORTS.update(runs, trained.row.cell_id, lambda _: figures)
        except (DiskFullError, InputError) as error:  # the model itself is there
            echo(f"note: what it costs to use is not kept: {error}", err=True)
    return answer.libraries, figures


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder, in a temporary one of this user, that becomes `folder` at the end, and of which
    nothing stays after an error. If the export is killed, the next one in that place removes it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        with TemporaryDirectory(
            prefix=_PART, dir=folder.parent, ignore_cleanup_errors=True
        ) as part:
            model = Path(part, "model")
            model.mkdir()
            with FileLock(Path(part, _LOCK)):
                yield model
            for path in (model, *model.rglob("*")):  # safetensors' files are for their owner alone
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
            model.rename(folder)  # an empty folder is replaced
    except (OSError, SafetensorError) as error:  # the latter of a full disk, too
        reason = one_line(getattr(error, "strerror", None) or str(error))
        raise DiskFullError(
            f"--to {folder}: can't be written ({reason}); nothing was left there"
        ) from error


def _remove_stale(place: Path) -> None:
    """Remove the temporary folders of exports of this user that were killed."""
    for path in place.glob(f"{_PART}*"):
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _OLD_S:
                with FileLock(path / _LOCK, timeout=0):  # its process has ended
                    shutil.rmtree(path)


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
